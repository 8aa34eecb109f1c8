// What is wrong with a page, by kind: run by look.py in the page itself.
() => {
  const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  const name = (e) => (e.innerText || e.getAttribute("aria-label") || e.outerHTML)
    .trim().replace(/\s+/g, " ").slice(0, 60);
  const article = document.querySelector("article") || document.body;
  const scrolls = (e) => {
    for (let a = e; a && a !== document.body; a = a.parentElement)
      if (/auto|scroll|hidden/.test(getComputedStyle(a).overflowX)) return true;
    return false;
  };
  const wide = [...article.querySelectorAll("*")].filter((e) => shown(e) &&
    e.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(e) && !e.closest("svg"));

  // Contrast of text with what lies behind it, as WCAG defines it.
  const rgba = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = (top, under) => {
    const a = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map((i) => top[i] * a + under[i] * (1 - a));
  };
  const behind = (e) => {
    const layers = [];
    for (let a = e; a; a = a.parentElement) layers.push(rgba(getComputedStyle(a).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (e) => {
    const back = behind(e), style = getComputedStyle(e);
    const text = rgba(style.color);
    let opacity = 1;
    for (let a = e; a; a = a.parentElement) opacity *= getComputedStyle(a).opacity;
    const front = over([text[0], text[1], text[2], (text[3] ?? 1) * opacity], back);
    const [x, y] = [light(front), light(back)].sort((a, b) => b - a);
    return (x + 0.05) / (y + 0.05);
  };
  const texts = [...article.querySelectorAll("td, th, p, li, figcaption, code, a, b, small")]
    .filter((e) => shown(e) && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const large = (e) => parseFloat(getComputedStyle(e).fontSize) >= 24;
  const pale = texts.filter((e) => !e.closest(".highlight, .js-plotly-plot") &&
    ratio(e) < (large(e) ? 3 : 4.5));

  const pictures = [...article.querySelectorAll("img, svg[role=img]")].filter(shown);
  const words = (e) => e.getAttribute("alt") || e.getAttribute("aria-label") || "";
  const mute = pictures.filter((e) => !words(e).trim() || /\.(png|svg)$/.test(words(e)));
  const cells = [...article.querySelectorAll(".cell_output td, .sheet td")].filter((e) =>
    shown(e) && /^(nan|none|inf|-inf)%?$/i.test(e.innerText.trim()));
  const first = [...article.querySelectorAll("figure.plate, figure img, .js-plotly-plot")].find(shown);
  const few = (list, more = () => "") => list.slice(0, 4).map((e) => `${name(e)}${more(e)}`)
    .concat(list.length > 4 ? [`and ${list.length - 4} more`] : []);
  return {
    first_figure: first ? Math.round(first.getBoundingClientRect().top + window.scrollY) : null,
    "wider than the page": few(wide),
    "low contrast": few(pale, (e) => ` (${ratio(e).toFixed(1)})`),
    "no alternative text": few(mute),
    "an empty number": few(cells, (e) => ` in ${name(e.closest("tr"))}`),
  };
}
