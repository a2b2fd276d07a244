() => {
  // the levels of the headings, the main buttons, controls without a name, and what sticks out of the window
  const seen = (part) => {
    const box = part.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && part.checkVisibility({ visibilityProperty: true }) && !part.closest("details:not([open]) > :not(summary)");
  };
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const name = (part) => (part.ariaLabel || part.innerText || part.title || part.alt || "").trim();
  const say = (part) => part.outerHTML.slice(0, 200);
  const scrolls = ".js-plotly-plot, pre, [data-testid=stDataFrame], [role=tablist], .xray";
  return {
    headings: all("h1, h2, h3, h4, h5, h6").map((part) => Number(part.tagName[1])),
    primary: all("[data-testid=stBaseButton-primary]").map(name),
    unnamed: all("button, a[href], [role=button]").filter((part) => !name(part)).map(say),
    wide: all("[data-testid=stMain] *")
      .filter((part) => part.tagName !== "INPUT" && part.getBoundingClientRect().right > innerWidth + 2 && !part.closest(scrolls))
      .map(say),
  };
}
