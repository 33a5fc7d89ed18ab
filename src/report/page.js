(() => {
  "use strict";
  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const exact = value => value == null ? "–" : Number.isInteger(value) ? value.toLocaleString("en") : String(+value.toPrecision(5));
  const tick = (_, values) => values.map(v => v == null ? "" : Math.abs(v) >= 1000 ? short.format(v) : String(+v.toPrecision(4)));

  // Where a perfectly calibrated model lies, or the ROC curve of chance.
  const diagonal = plot => {
    const ends = ["x", "y"].map(s => [plot.scales[s].min, plot.scales[s].max]);
    const [from, to] = [Math.max(ends[0][0], ends[1][0]), Math.min(ends[0][1], ends[1][1])];
    const at = v => [plot.valToPos(v, "x", true), plot.valToPos(v, "y", true)];
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = style("--soft");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(...at(from));
    ctx.lineTo(...at(to));
    ctx.stroke();
    ctx.restore();
  };

  const options = (chart, width) => {
    const few = chart.data[0].length < 40;
    const axis = more => ({
      stroke: style("--soft"), font: "11px system-ui, sans-serif", values: tick,
      grid: { stroke: style("--grid"), width: 1 }, ticks: { show: false }, ...more,
    });
    const steps = ["step", "round"].includes(chart.x);
    // Beside the name of a curve stands the value under the pointer; without one that of the last step.
    const shown = (plot, value, number, index) => {
      if (index != null) return exact(value);
      return steps ? exact(plot.data[number].findLast(v => v != null)) : "";
    };
    const series = chart.labels.map((label, i) => {
      const stroke = style(`--c${chart.colours[i] % 8}`);
      const points = { show: chart.kind === "points" || few && chart.kind === "line" && !chart.range, size: 5, fill: stroke };
      const bars = chart.kind === "bars" && chart.labels.length === 1;
      return {
        label: chart.labels.length > 1 ? label : "value", stroke, points, width: 1.75, spanGaps: true, value: shown,
        ...(bars ? { fill: stroke + "66", paths: uPlot.paths.bars({ size: [0.9, 60] }), points: { show: false } } : {}),
      };
    });
    const x = steps ? {} : { range: (_, min, max) => chart.kind === "points" ? [0, max] : [0, 1] };
    const y = chart.range ? { range: chart.range } : chart.diagonal || chart.kind === "bars" ? { range: (_, min, max) => [0, max * 1.05 || 1] } : {};
    return {
      width, height: 230, series: [{ label: chart.x, value: shown }, ...series],
      scales: { x: { time: false, ...x }, y },
      axes: [axis({ size: 26, gap: 4 }), axis({ size: 50, gap: 4 })],
      cursor: { points: { size: 7 }, ...(steps ? { sync: { key: chart.x } } : {}) },
      legend: { markers: { width: 2 } },
      hooks: chart.diagonal ? { drawAxes: [diagonal] } : {},
    };
  };

  const drawn = new Map();
  const draw = figure => {
    const chart = CHARTS[figure.dataset.chart];
    // One curve whose last value says nothing needs no legend until it is pointed at.
    figure.classList.toggle("quiet", chart.labels.length === 1 && !["step", "round"].includes(chart.x));
    drawn.get(figure)?.destroy();
    drawn.set(figure, new uPlot(options(chart, figure.firstChild.clientWidth), chart.data, figure.firstChild.nextSibling));
  };
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  for (const figure of figures) {
    const caption = figure.appendChild(document.createElement("figcaption"));
    caption.textContent = CHARTS[figure.dataset.chart].title;
    figure.appendChild(document.createElement("div"));
    draw(figure);
    new ResizeObserver(() => drawn.get(figure).setSize({ width: caption.clientWidth, height: 230 })).observe(caption);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.forEach(draw));
  for (const time of document.querySelectorAll("time[data-unix]")) {
    time.textContent = new Date(1000 * time.dataset.unix).toLocaleString();
  }
})();
