// "Predict first": the reader types a guess, kept in this browser alone, and then sees the answer.
// Without this script the answer is simply visible.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".predict").forEach((box, number) => {
    const answer = box.querySelector(".reveal");
    if (!answer) return;
    const key = `predict:${location.pathname}:${number}`;
    const guess = document.createElement("textarea");
    guess.rows = 2;
    guess.setAttribute("aria-label", "Your guess");
    guess.placeholder = "Your guess (stays in this browser)";
    try {
      guess.value = localStorage.getItem(key) || "";
      guess.addEventListener("input", () => localStorage.setItem(key, guess.value));
    } catch { /* storage is switched off: the guess lasts as long as the page */ }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Show the answer";
    button.addEventListener("click", () => {
      answer.hidden = false;
      button.remove();
      answer.tabIndex = -1;
      answer.focus();
    });
    answer.hidden = true;
    answer.before(guess, button);
  });
});
