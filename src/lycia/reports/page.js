// Shows the figures of a chart near the pointer, or with the arrow keys once the chart has the focus.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);

  for (const chart of document.querySelectorAll("svg[data-tips]")) {
    const tips = JSON.parse(chart.dataset.tips);
    const cursor = chart.querySelector(".cursor");
    let at = -1;

    const hide = () => {
      at = -1;
      tip.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    };
    const show = (index) => {
      at = Math.min(Math.max(index, 0), tips.length - 1);
      const [x, said] = tips[at];
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", "visible");
      tip.textContent = said;
      tip.hidden = false;
      const place = new DOMPoint(x, 0).matrixTransform(chart.getScreenCTM());
      const room = document.documentElement.clientWidth;
      const left = place.x + 14 + tip.offsetWidth > room ? place.x - 14 - tip.offsetWidth : place.x + 14;
      tip.style.left = `${Math.max(left, 4) + scrollX}px`;
      tip.style.top = `${place.y + scrollY + 18}px`;
    };
    const nearest = (event) => {
      const x = new DOMPoint(event.clientX, 0).matrixTransform(chart.getScreenCTM().inverse()).x;
      let best = 0;
      tips.forEach(([place], index) => {
        if (Math.abs(place - x) < Math.abs(tips[best][0] - x)) best = index;
      });
      return best;
    };
    chart.addEventListener("pointermove", (event) => show(nearest(event)));
    chart.addEventListener("pointerdown", (event) => show(nearest(event)));
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        show(at < 0 ? (step > 0 ? 0 : tips.length - 1) : at + step);
        event.preventDefault();
      } else if (event.key === "Escape") hide();
    });
  }
})();
