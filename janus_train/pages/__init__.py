"""What all pages (report, plan, inspect) are made with: the templates, and images inside a page."""
