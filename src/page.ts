/** The landing page. */

/** @param links a path and what it is, in order */
export function landingPage(
  version: string,
  links: readonly (readonly [string, string])[],
): string {
  const items = links.map(([path, text]) => `<li><a href="${path}">${path}</a> ${text}</li>`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>execve-counter</title>
<style>:root { color-scheme: light dark } body { font: 1rem/1.6 system-ui, sans-serif; margin: 2rem }</style>
</head>
<body>
<h1>execve-counter</h1>
<p>Counts every program execution on this host, in the kernel. Version ${version}.</p>
<ul>
${items.join("\n")}
</ul>
</body>
</html>
`;
}
