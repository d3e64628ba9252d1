// Light or dark: the system's choice until the reader makes one, which is kept where the browser allows it.
const SYSTEM = matchMedia("(prefers-color-scheme: dark)");

function darkNow() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : SYSTEM.matches;
}

function kept(value) {
  try {
    if (value) localStorage.setItem("netdoctor-theme", value);
    return localStorage.getItem("netdoctor-theme");
  } catch {
    return null;
  }
}

function startTheme() {
  const button = document.getElementById("theme");
  const show = () => button.setAttribute("aria-pressed", String(darkNow()));
  const before = kept();
  if (before === "dark" || before === "light") document.documentElement.dataset.theme = before;
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = darkNow() ? "light" : "dark";
    kept(document.documentElement.dataset.theme);
    show();
    redrawThemed();
  });
  SYSTEM.addEventListener("change", () => {
    show();
    redrawThemed();
  });
  show();
}
