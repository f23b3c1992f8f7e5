"""HTML pages (report, plan, inspect): their templates, and the images inside them."""
