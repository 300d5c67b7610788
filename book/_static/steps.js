// A figure of several settings, see nbutils.lab.figures.Steps, shows one of them, and a slider chooses which.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("figure.steps").forEach((figure) => {
    const steps = [...figure.querySelectorAll(".step")];
    const label = document.createElement("label");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: steps.length - 1, step: 1, value: steps.length - 1 });
    label.append(figure.dataset.name, slider);
    const show = () => {
      steps.forEach((step, number) => step.classList.toggle("off", number !== Number(slider.value)));
      slider.setAttribute("aria-valuetext", steps[slider.value].dataset.step);
    };
    slider.addEventListener("input", show);
    figure.prepend(label);
    show();
  });
});
