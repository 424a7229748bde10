"use strict";
for (const holder of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  holder.replaceChildren();
  Plotly.newPlot(holder, figure.data, figure.layout, figure.config);
}
{
  // A figure is as wide as its column; paper is narrower than most screens.
  const paper = 640;
  const drawn = () => document.querySelectorAll(".js-plotly-plot");
  addEventListener("beforeprint", () => drawn().forEach((figure) => Plotly.relayout(figure, { width: paper })));
  addEventListener("afterprint", () => drawn().forEach((figure) => Plotly.relayout(figure, { width: null, autosize: true })));
}
