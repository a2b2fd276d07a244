// The visible texts of the page, and those whose color is too close to what is behind them.
() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
  const parents = function* (e) { for (; e; e = e.parentElement) yield e; };
  const behind = e => {
    const layers = [];
    for (const p of parents(e)) {
      const color = parse(getComputedStyle(p).backgroundColor);
      layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const weak = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    const hidden = !box.width || style.visibility === "hidden" || ["STYLE", "SCRIPT"].includes(e.tagName);
    // disabled controls are exempt; a slider's number stands beside its knob, which only seems to be behind it
    if (!text || hidden || e.closest("[disabled], [aria-disabled=true], [data-testid=stSlider]")) continue;
    texts += 1;
    const back = behind(e), front = parse(style.color);
    for (const p of parents(e)) front[3] *= Number(getComputedStyle(p).opacity);
    const [a, b] = [luminance(over(front, back)), luminance(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return {texts, weak};
}
