// Runs before the first paint, so that a chosen theme does not flash the other one. The rest is main.js.
try {
  const theme = JSON.parse(localStorage.getItem('llb.theme'));
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the system's theme holds.
}
