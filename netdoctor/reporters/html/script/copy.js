// Copies code; where the browser has no clipboard for local files, by selecting it.
function startCopying() {
  const status = html("p", { class: "unseen", role: "status" });
  document.body.append(status);
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      const done = await copied(code);
      const label = button.querySelector("span");
      label.textContent = done ? "Copied" : "Select it";
      button.classList.toggle("done", done);
      status.textContent = done ? "Copied to the clipboard" : "The code is selected: copy it with the keyboard";
      setTimeout(() => {
        label.textContent = "Copy";
        button.classList.remove("done");
        status.textContent = "";
      }, 2500);
    });
  }
}

async function copied(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}
