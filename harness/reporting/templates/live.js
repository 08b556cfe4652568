'use strict';

// Every few seconds, the content of the page is replaced by that of the same address, where it stands.
const seconds = Number(document.body.dataset.refresh);
const connection = document.querySelector('.connection');

const scrolled = root => [...root.querySelectorAll('.scroll, .log')];

async function refresh() {
  try {
    const answer = await fetch(location.href, { cache: 'no-store' });
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html').querySelector('main');
    const main = document.querySelector('main');
    for (const details of main.querySelectorAll('details[open]')) next.querySelector('#' + details.id)?.setAttribute('open', '');
    const places = scrolled(main).map(part => [part.scrollLeft, part.scrollTop, part.scrollHeight - part.clientHeight - part.scrollTop < 4]);
    main.replaceWith(next);
    scrolled(next).forEach((part, index) => {
      const [left, top, atEnd] = places[index] ?? [0, 0, true];
      part.scrollLeft = left;
      part.scrollTop = atEnd ? part.scrollHeight : top;
    });
    connection.hidden = true;
  } catch {
    connection.hidden = false;
    connection.textContent ||= 'No answer since ' + new Date().toLocaleTimeString() + '. Is harness serve still running?';
    return setTimeout(refresh, 1000 * seconds);
  }
  connection.textContent = '';
  setTimeout(refresh, 1000 * seconds);
}

for (const log of document.querySelectorAll('.log')) log.scrollTop = log.scrollHeight;
setTimeout(refresh, 1000 * seconds);
