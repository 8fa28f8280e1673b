// From one tab to another, as a press on the tab would do it.

// name: as it stands on the tab. Where there is no room gradio keeps a tab in a menu, which is there though it is shut.
function showTab(name) {
  const tabs = document.querySelectorAll("button[role=tab], .overflow-dropdown button");
  [...tabs].find((tab) => tab.textContent.trim() === name)?.click();
}

// Open something in the Inspector: {run}, or {battle, turn}, or, for the owner, {battle, token}. Its part of the page is
// made when its tab is first shown; until then what is wanted waits.
function openInspector(detail) {
  window.ramInspect = detail;
  window.dispatchEvent(new CustomEvent("ram-inspect", { detail }));
  showTab("Inspect");
}
