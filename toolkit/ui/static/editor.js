// A monospace text box that grows with its text, sends it after a short pause, and has buttons that insert {column}.
// Texts from outside (columns, the value) are only ever assigned to textContent or value, never to markup.
const PAUSE_MS = 250;

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const box = parentElement.querySelector("textarea");
  const chips = parentElement.querySelector(".chips");
  box.setAttribute("aria-label", data.label);
  box.placeholder = data.placeholder;

  const grow = () => {
    box.style.height = "auto";
    box.style.height = Math.min(box.scrollHeight + 2, 480) + "px";
  };
  const send = () => {
    clearTimeout(box.timer);
    box.timer = undefined;
    if (box.value !== box.sent) {
      box.sent = box.value;
      setStateValue("value", box.value);
    }
  };
  box.oninput = () => {
    grow();
    clearTimeout(box.timer);
    box.timer = setTimeout(send, PAUSE_MS);
  };
  box.onblur = send;

  // A new version means that the app replaced the text; otherwise the text that is being typed is newer than the data.
  if (box.version !== data.version) {
    box.version = data.version;
    box.value = data.value;
    box.sent = data.value;
    requestAnimationFrame(grow);
  }

  const names = JSON.stringify(data.columns);
  if (chips.dataset.names !== names) {
    chips.dataset.names = names;
    chips.replaceChildren(
      ...data.columns.map((name) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.textContent = "{" + name + "}";
        chip.title = "Insert {" + name + "}";
        chip.onmousedown = (event) => event.preventDefault(); // keeps the focus and the caret in the text box
        chip.onclick = () => {
          box.focus();
          box.setRangeText("{" + name + "}", box.selectionStart, box.selectionEnd, "end");
          grow();
          send();
        };
        return chip;
      }),
    );
  }
  return () => clearTimeout(box.timer);
}
