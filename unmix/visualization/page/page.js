'use strict';
(() => {
  const specs = JSON.parse(document.getElementById('plots').textContent);
  const colours = ['#4c8ed9', '#e1812c', '#3a923a', '#c03d3e', '#9372b2', '#a0765f', '#d684bd', '#8a8a8a', '#a9aa35', '#2eabb8'];
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const whole = [...Array(12).keys()].flatMap(power => [1, 2, 5].map(digit => digit * 10 ** power));
  let drawn = [];

  const size = (holder, spec) => ({width: Math.max(holder.clientWidth, 100), height: spec.scatter ? 320 : 240});

  // Vertical lines where something was reported.
  const lines = marks => plot => {
    const {ctx, bbox} = plot;
    ctx.save();
    ctx.strokeStyle = css('--error');
    ctx.setLineDash([4, 4]);
    for (const x of marks) {
      const at = Math.round(plot.valToPos(x, 'x', true));
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  const draw = (holder, spec) => {
    const axis = (label, scatter) => ({
      label, labelSize: 20, labelFont: '12px system-ui, sans-serif', font: '12px system-ui, sans-serif',
      stroke: css('--soft'), grid: {stroke: css('--line'), width: 1}, ticks: {stroke: css('--line'), width: 1},
      ...(scatter ? {values: (plot, splits) => splits.map(() => '')} : {}),
    });
    const series = spec.series.map(one => {
      const colour = colours[one.colour % colours.length];
      return {
        label: one.label,
        stroke: one.faint ? colour + '66' : colour,
        width: one.faint ? 1 : 2,
        dash: one.dash ? [6, 5] : undefined,
        spanGaps: true,
        value: (plot, value) => value == null ? '' : String(+value.toPrecision(5)),
        ...(spec.scatter
          ? {paths: () => null, points: {show: true, space: 0, size: 6, stroke: colour, fill: colour + 'aa'}}
          : {points: {show: one.dots, space: 0, size: 5, fill: colour}}),
      };
    });
    const options = {
      ...size(holder, spec),
      scales: {x: {time: false}},
      series: [{label: spec.x}, ...series],
      axes: [{...axis(spec.x, spec.scatter), ...(spec.scatter ? {} : {incrs: whole})}, {...axis(spec.y, spec.scatter), size: spec.scatter ? 20 : 56}],
      legend: {live: !spec.scatter},
      cursor: spec.scatter ? {show: false} : {},
      hooks: {draw: [lines(spec.marks)]},
    };
    return {plot: new uPlot(options, [spec.xs, ...spec.series.map(one => one.values)], holder), holder, spec};
  };

  const all = () => {
    drawn.forEach(one => one.plot.destroy());
    drawn = [...document.querySelectorAll('.plot')].map(holder => draw(holder, specs[holder.dataset.plot]));
  };
  all();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', all);
  addEventListener('resize', () => drawn.forEach(one => one.plot.setSize(size(one.holder, one.spec))));
})();
