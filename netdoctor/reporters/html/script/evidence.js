// A finding's link shows its picture with the finding's statistic, layers and steps.
function startEvidence() {
  for (const link of document.querySelectorAll(".to-picture")) {
    link.addEventListener("click", () => {
      const target = document.getElementById(link.hash.slice(1));
      const made = figures.get(target.id);
      const wanted = {
        statistic: link.dataset.statistic,
        layers: JSON.parse(link.dataset.layers),
        span: JSON.parse(link.dataset.span),
      };
      for (const figure of document.querySelectorAll(".figure.shown")) figure.classList.remove("shown");
      if (made) {
        target.classList.add("shown");
        made.show(wanted);
      }
      setTimeout(() => target.focus({ preventScroll: true }));
    });
  }
}
