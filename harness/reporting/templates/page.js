'use strict';

for (const element of document.querySelectorAll('.needs-script')) element.hidden = false;

// Tooltips: a mouse shows the point below it, a tap the point nearest to the finger until the next tap elsewhere.
let close = () => {};
for (const plot of document.querySelectorAll('.plot[data-points]')) {
  const points = JSON.parse(plot.dataset.points);
  const ring = document.createElement('div'), tip = document.createElement('div');
  ring.className = 'ring';
  tip.className = 'tip';
  ring.hidden = tip.hidden = true;
  plot.append(ring, tip);
  const hide = () => { ring.hidden = tip.hidden = true; };
  const show = event => {
    const box = plot.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let nearest = null, least = (event.pointerType === 'mouse' ? 20 : 40) ** 2;
    for (const point of points) {
      const distance = (point[0] * box.width - x) ** 2 + (point[1] * box.height - y) ** 2;
      if (distance < least) { least = distance; nearest = point; }
    }
    if (close !== hide) close();
    close = hide;
    ring.hidden = tip.hidden = !nearest;
    if (!nearest) return;
    const left = nearest[0] * box.width, top = nearest[1] * box.height;
    ring.style.left = left + 'px';
    ring.style.top = top + 'px';
    tip.textContent = nearest[2];
    tip.style.left = Math.max(0, Math.min(left + 12, box.width - tip.offsetWidth)) + 'px';
    tip.style.top = top + 12 + 'px';
  };
  plot.addEventListener('pointermove', event => { if (event.pointerType === 'mouse') show(event); });
  plot.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') hide(); });
  plot.addEventListener('click', show);
}
document.addEventListener('click', event => { if (!event.target.closest('.plot')) close(); });

const search = document.querySelector('#find');
search?.addEventListener('input', () => {
  for (const run of document.querySelectorAll('details.run')) run.hidden = !run.id.includes(search.value.trim());
});

// A link of the menu closes it, and opens what it leads to.
document.querySelector('nav').addEventListener('click', event => {
  if (event.target.closest('a')) document.querySelector('#menu').checked = false;
});

// The hint above a table that fits is not needed.
const fit = () => {
  for (const hint of document.querySelectorAll('.hint')) {
    const scroller = hint.nextElementSibling;
    hint.hidden = scroller.scrollWidth <= scroller.clientWidth;
  }
};
addEventListener('resize', fit);
fit();
