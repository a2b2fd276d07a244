// A growing monospace text box that reports what is typed after a short pause, with buttons that insert {column}.
// Texts from outside (columns, the value) only ever become textContent or value, never markup.
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

  // A new version means that the text was replaced from outside; else what is being typed here is the newer one.
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
        chip.onmousedown = (event) => event.preventDefault(); // keeps the caret where it is
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
