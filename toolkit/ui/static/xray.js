// The tokens of one row, each with its state; what one points at, by mouse or arrow keys, is spelled out below them.
// Texts from outside (tokens and their names) only ever become textContent, never markup.
const STATES = {
  t: ["trained", "learned: the loss counts it"],
  m: ["masked", "read, not learned"],
  c: ["cut", "cut off by the length limit: the model never sees it"],
};
const SIGNS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣" };

const element = (kind, name, text) => {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};

// What has no ink of its own gets a sign; a line break keeps breaking the line.
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
  special.title = "a sign of the tokenizer's own: beginning, end, or a mark of the chat template";
  bar.append(special);
  const share = data.total ? Math.round((100 * data.trained) / data.total) : 0;
  bar.append(element("span", "share", `${share} % of ${word(data.total, "token")} learned`));
  return bar;
}

function row(data) {
  const box = element("div", "row");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Tokens of row ${data.row}: arrow keys move, the line below tells each one's id`);
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
  if (data.begins >= data.total) box.append(element("span", "edge", "completion ▸ (nothing)"));
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
