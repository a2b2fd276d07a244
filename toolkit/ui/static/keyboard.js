// What Streamlit lacks for keyboards and phones: a skip link, a menu that closes, toolbars outside the tab order, and words.
const MENU = '[data-testid="stSidebar"]';
const PRIMARY = '[data-testid="stMain"] [data-testid="stBaseButton-primary"]:not(:disabled), ' +
  '[data-testid="stBottomBlockContainer"] [data-testid="stBaseButton-primary"]:not(:disabled)';
const TOOLBARS = ".modebar-btn, [data-testid='stElementToolbarButton'] button, [data-testid='stElementToolbar'] button";

// Streamlit's dialog of a lost server speaks of a script and an internet connection that this app does not have.
const LOST = [
  [/^Is Streamlit still running\?.*/s, "The app has stopped. Runs that are training continue without it. To open it again, run this in its folder:"],
  [/^Streamlit server is not responding\..*/s, "The app does not answer. It may have stopped: start it again with streamlit run app.py in its folder. Runs that are training continue without it."],
  [/yourscript\.py/, "app.py"],
];

function nameThisApp() {
  for (const dialog of document.querySelectorAll('[role="dialog"]')) {
    const walker = document.createTreeWalker(dialog, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
      for (const [theirs, ours] of LOST)
        if (theirs.test(walker.currentNode.data)) walker.currentNode.data = walker.currentNode.data.replace(theirs, ours);
  }
}

// The dialog's copy button holds Streamlit's own command: what it shows is copied after it.
function copyThisCommand(event) {
  const command = event.target.closest('[role="dialog"]')?.querySelector("code")?.textContent.trim();
  if (event.target.closest('[data-testid="stElementToolbarButton"]') && command === "streamlit run app.py")
    setTimeout(() => navigator.clipboard?.writeText(command), 0);
}

function closeMenu() {
  const menu = document.querySelector(MENU);
  if (menu?.dataset.collapsed === "false") menu.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
}

function skip(event) {
  event.preventDefault();
  const target = document.querySelector(PRIMARY) ?? document.querySelector('[data-testid="stMain"]');
  if (!target.matches("button")) target.tabIndex = -1;
  target.focus();
}

function addSkipLink() {
  const link = document.createElement("a");
  link.className = "ftk-skip";
  link.href = "#stMain";
  link.textContent = "Skip to the main action";
  link.onclick = skip;
  document.body.prepend(link);
}

export default function () {
  if (window.ftkKeyboard) return;
  window.ftkKeyboard = true;
  addSkipLink();
  document.addEventListener("keydown", (event) => event.key === "Escape" && closeMenu());
  document.addEventListener("click", (event) => event.target.closest(`${MENU} a`) && setTimeout(closeMenu, 0));
  document.addEventListener("click", copyThisCommand, true);
  const toolbars = () => document.querySelectorAll(TOOLBARS).forEach((button) => (button.tabIndex = -1));
  new MutationObserver(nameThisApp).observe(document.body, { subtree: true, childList: true });
  new MutationObserver(toolbars).observe(document.body, { subtree: true, childList: true });
}
