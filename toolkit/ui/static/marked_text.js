// A text in parts, some of them marked, some with a tooltip. Texts are only ever assigned to textContent or title.
const KINDS = new Set(["same", "other", "p0", "p1", "p2", "p3", "p4"]);

export default function (component) {
  const { data, parentElement } = component;
  const box = parentElement.querySelector(".marked");
  box.replaceChildren(
    ...data.parts.map((part) => {
      const span = document.createElement("span");
      span.textContent = part.text;
      span.className = KINDS.has(part.kind) ? part.kind : "same";
      if (part.note) {
        span.title = part.note;
      }
      return span;
    }),
  );
}
