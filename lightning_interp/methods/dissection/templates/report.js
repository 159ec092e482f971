for (const section of document.querySelectorAll("section.layer")) {
  const form = section.querySelector("form");
  const cards = [...section.querySelectorAll(".card")];
  const box = section.querySelector(".cards");
  const orders = {
    iou: (a, b) => b.dataset.iou - a.dataset.iou || a.dataset.unit - b.dataset.unit,
    unit: (a, b) => a.dataset.unit - b.dataset.unit,
    concept: (a, b) => a.dataset.concept.localeCompare(b.dataset.concept) || orders.iou(a, b),
  };
  const update = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const word = wanted.concept.trim().toLowerCase();
    const least = Number(wanted.iou);
    let shown = 0;
    for (const card of cards) {
      const data = card.dataset;
      card.hidden = !data.concept.toLowerCase().includes(word)
        || (wanted.category !== "" && data.category !== wanted.category)
        || (least > 0 && Number(data.iou) < least)
        || ("trusted" in wanted && !("trusted" in data));
      shown += !card.hidden;
    }
    form.querySelector("output").value = shown === cards.length ? `${shown} units` : `${shown} of ${cards.length} units`;
  };
  form.elements.order.addEventListener("change", () => box.append(...cards.sort(orders[form.elements.order.value])));
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
}
