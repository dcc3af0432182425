// Keys and dropped files, wherever on the page.

// does: for a key, and whether shift is held, what is to be done, or null.
export function onKeys(does) {
  document.addEventListener("keydown", (event) => {
    const inField = event.target.matches("input:not([type=radio]), select");
    const onButton = event.key === " " && event.target.matches("button");
    if (inField || onButton || event.ctrlKey || event.metaKey || event.altKey) return;
    const doing = does(event.key.length === 1 ? event.key.toLowerCase() : event.key, event.shiftKey);
    if (!doing) return;
    event.preventDefault();
    doing();
  });
  // The space bar plays, also after a button was clicked; one that was reached by keys keeps it.
  addEventListener("click", ({ detail, target }) => { if (detail && target.matches("button")) target.blur(); });
}

// place: shows that it would take what is held over the page.
export function onDrop(place, take) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      place.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files);
    });
  }
}
