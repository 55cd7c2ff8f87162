// Not a module: it runs before the page is drawn, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("microreg.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the theme of the system.
}
