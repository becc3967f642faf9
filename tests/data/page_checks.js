// What can be read off a finished page; each function gives what is wrong, so the empty list is the good answer.
({
  // Texts whose contrast with what lies behind them is below WCAG 2.1's 4.5.
  contrast() {
    const parts = (text) => {
      const found = text.match(/[\d.]+/g).map(Number);
      return found.length < 4 ? [...found, 1] : found;
    };
    const ground = (element) => {
      for (; element; element = element.parentElement) {
        const color = parts(getComputedStyle(element).backgroundColor);
        if (color[3] === 1) return color;
      }
      return [255, 255, 255, 1];
    };
    const light = (color) => {
      const [r, g, b] = color.map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const poor = [];
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !element.checkVisibility() || element.closest(":disabled, option, .unseen, .skip")) continue;
      const lights = [light(parts(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
      const ratio = (lights[0] + 0.05) / (lights[1] + 0.05);
      if (ratio < 4.5) poor.push([element.tagName, element.className, element.textContent.slice(0, 30), ratio]);
    }
    return poor;
  },
  // Controls and landmarks that a screen reader cannot name.
  nameless() {
    const kinds = "button, input, select, textarea, a, summary, dialog, [role=img], nav, form, section";
    return [...document.querySelectorAll(kinds)].filter((element) => element.checkVisibility())
      .filter((element) => !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
        || (element.labels && element.labels.length) || element.textContent.trim()))
      .map((element) => element.outerHTML);
  },
  // Whether the page scrolls sideways.
  sideways() {
    return document.documentElement.scrollWidth > innerWidth ? [document.documentElement.scrollWidth, innerWidth] : [];
  },
})
