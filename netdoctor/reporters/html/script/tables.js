// The numbers behind each figure as a table, made when it is opened.
function startTables() {
  for (const details of document.querySelectorAll(".numbers-behind")) {
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      const { head, rows, title } = figures.get(details.closest(".figure").id).table();
      const table = html("table", {});
      if (title) table.append(html("caption", {}, title));
      table.append(html("thead", {}, html("tr", {}, ...head.map((text) => html("th", { scope: "col" }, text)))));
      table.append(
        html(
          "tbody",
          {},
          ...rows.map(([name, ...cells]) =>
            html("tr", {}, html("th", { scope: "row" }, name), ...cells.map((text) => html("td", {}, text))),
          ),
        ),
      );
      details.querySelector("div").replaceChildren(table);
    });
  }
}
