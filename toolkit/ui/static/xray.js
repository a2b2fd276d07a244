// The tokens of one row, each with its state. The line below describes the token under the mouse or the arrow keys.
// Texts from outside (tokens and their names) are only ever assigned to textContent, never to markup.
const STATES = {
  t: ["trained", "trained: included in the loss"],
  m: ["masked", "masked: input only, not in the loss"],
  c: ["truncated", "truncated: beyond the max sequence length, the model never sees it"],
};
const SIGNS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣" };

const element = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};

// White space and invisible characters get a symbol; a line break still breaks the line.
const visible = (text, name) => {
  if (text === "") return "‥";
  if (/^ +$/.test(text)) return "␣".repeat(text.length);
  const shown = text.replace(/[\r\t]/g, (sign) => SIGNS[sign]).replace(/\n/g, "⏎\n");
  return /^[\p{C}\p{Z}]+$/u.test(text) && shown === text ? name : shown;
};

const word = (total, one) => `${total.toLocaleString("en")} ${one}${total === 1 ? "" : "s"}`;

function legend(data) {
  const bar = element("div", "legend");
  const count = { t: data.trained, c: data.total - data.kept };
  count.m = data.total - count.t - count.c;
  for (const state of ["t", "m", "c"]) {
    const entry = element("span", "entry");
    entry.append(element("span", `token ${state}`, STATES[state][0]), ` ${count[state].toLocaleString("en")}`);
    entry.title = STATES[state][1];
    bar.append(entry);
  }
  const special = element("span", "entry");
  special.append(element("span", "token m special", "special"));
  special.title = "special token of the tokenizer: beginning, end, or part of the chat template";
  bar.append(special);
  const share = data.total ? Math.round((100 * data.trained) / data.total) : 0;
  bar.append(element("span", "share", `${share} % of ${word(data.total, "token")} trained`));
  return bar;
}

function row(data) {
  const box = element("div", "row");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Tokens of row ${data.row}. Use the arrow keys to move; the line below shows the id of the token.`);
  let at = 0;
  for (const part of data.parts) {
    if (part.from > at) box.append(element("span", "gap", `… ${word(part.from - at, "token")} …`));
    at = part.from;
    for (const [id, text, name, state, special] of part.tokens) {
      if (at === data.begins) box.append(element("span", "edge", "completion ▸"));
      if (data.answers.includes(at)) box.append(element("span", "edge", "answer ▸"));
      if (at === data.kept && data.kept < data.total) box.append(element("span", "edge limit", `✂ ${data.length}`));
      const token = element("span", `token ${state}${special ? " special" : ""}`, visible(text, name));
      token.about = `Token ${at + 1} · id ${id} · ${name} · ${special ? "special, " : ""}${STATES[state][1]}`;
      token.dataset.id = id;
      box.append(token);
      at += 1;
    }
  }
  if (data.begins >= data.total) box.append(element("span", "edge", "completion ▸ (empty)"));
  return box;
}

export default function (component) {
  const { data, parentElement } = component;
  const root = parentElement.querySelector(".xray");
  const stamp = JSON.stringify(data);
  if (root.stamp === stamp) return;
  root.stamp = stamp;
  const box = row(data);
  const detail = element("div", "detail", "Point at a token to see its id.");
  detail.setAttribute("aria-live", "polite");
  let current = null;
  const point = (token) => {
    if (!token) return;
    if (current) current.classList.remove("current");
    current = token;
    current.classList.add("current");
    detail.textContent = token.about;
  };
  box.onmouseover = (event) => point(event.target.closest(".token"));
  box.onkeydown = (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!step) return;
    event.preventDefault();
    let next = current ? current[step] : box.querySelector(".token");
    while (next && !next.classList.contains("token")) next = next[step];
    point(next);
    next?.scrollIntoView({ block: "nearest" });
  };
  root.replaceChildren(legend(data), box, detail);
}
