"""A report from its figures to the reader's eyes:

prep/inspect/report.py, train/report.py
    -> sheet      findings, facts, charts and passages, without any markup
    -> terminal   text and block characters at 80 columns
    -> html       one page (page.html, page.css) whose charts are drawn by
       svg        shapes as SVG, labels as HTML
"""
