"""Style sheet and script of the page. No network, no library."""

CSS = """
:root { --ink: #1b1b1b; --soft: #666; --line: #ddd; --paper: #fff; --tint: #f6f6f4; --yes: #00694d; --no: #a33f00; --open: #7a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a3a3a3; --line: #3c3c3c; --paper: #171717; --tint: #222;
  --yes: #4cc9a0; --no: #ff9a5c; --open: #e0b94a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } p { margin: .4rem 0; }
nav { position: sticky; top: 0; background: var(--paper); padding: .4rem 0; border-bottom: 1px solid var(--line); z-index: 2; }
nav a { margin-right: 1.1rem; } a { color: inherit; }
.soft, small, figcaption, .notes { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .3rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem .22rem 0; text-align: right; vertical-align: top; }
th:first-child, td:first-child, table.words td, table.words th { text-align: left; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; } tr.rule td { border-top: 1px solid var(--line); }
td small { display: block; line-height: 1.25; white-space: pre; } td.head { font-style: italic; padding-top: .5rem; }
table.words td { max-width: 34rem; padding-right: 1.2rem; } td details { border: 0; }
.claims td { border-bottom: 1px solid var(--line); }
.outcome { font-weight: 600; white-space: nowrap; } .supported { color: var(--yes); } .contradicted { color: var(--no); }
.not-separable { color: var(--open); } .not-run { color: var(--soft); font-weight: 400; }
ul.notes { margin: .2rem 0 .6rem; padding-left: 1.1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.4rem; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; } figcaption b { color: var(--ink); }
.plot { position: relative; background: #fff; border-radius: 3px; } .plot img { width: 100%; display: block; }
.ring { position: absolute; width: 11px; height: 11px; margin: -5.5px; border: 2px solid #111; border-radius: 50%; pointer-events: none; }
.tip { position: absolute; background: #111; color: #fff; font-size: .75rem; padding: .25rem .5rem; border-radius: 3px; white-space: pre;
  pointer-events: none; z-index: 3; max-width: 95vw; }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; } summary { cursor: pointer; }
details.run > div { display: flex; flex-wrap: wrap; gap: 1.2rem; padding: .5rem 0 .8rem; }
.facts { flex: 1 1 26rem; min-width: 0; } .facts td { max-width: 30rem; overflow-wrap: anywhere; text-align: left; }
.grid { width: 220px; image-rendering: pixelated; align-self: flex-start; }
svg.mini { width: 260px; height: 120px; background: var(--tint); }
code, pre { font: .78rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
input[type=search] { font: inherit; padding: .2rem .5rem; width: 22rem; max-width: 100%; }
"""

SCRIPT = """
for (const plot of document.querySelectorAll('.plot[data-points]')) {
  const points = JSON.parse(plot.dataset.points);
  const ring = document.createElement('div'), tip = document.createElement('div');
  ring.className = 'ring'; tip.className = 'tip'; ring.hidden = tip.hidden = true; plot.append(ring, tip);
  plot.addEventListener('mousemove', event => {
    const box = plot.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 400;
    for (const point of points) {
      const far = (point[0] * box.width - x) ** 2 + (point[1] * box.height - y) ** 2;
      if (far < least) { least = far; best = point; }
    }
    ring.hidden = tip.hidden = !best;
    if (!best) return;
    const left = best[0] * box.width, top = best[1] * box.height;
    ring.style.left = left + 'px'; ring.style.top = top + 'px';
    tip.textContent = best[2];
    tip.style.left = Math.max(0, Math.min(left + 12, box.width - tip.offsetWidth)) + 'px'; tip.style.top = top + 12 + 'px';
  });
  plot.addEventListener('mouseleave', () => { ring.hidden = tip.hidden = true; });
}
const search = document.querySelector('#find');
if (search) search.addEventListener('input', () => {
  for (const run of document.querySelectorAll('details.run')) run.hidden = !run.id.includes(search.value.trim());
});
"""
