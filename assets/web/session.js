// Who asks: a session lasts as long as the window, reloads included; another window has another one.

function ownSession() {
  let own = sessionStorage.getItem("ram-demo-session");
  if (!own) {
    own = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("ram-demo-session", own);
  }
  return own;
}
