"""From URLs to documents.

files      URLs of --corpus -> InputFile: name, size, version, format by its name (names)
formats    one row per format: split (file -> spans), check (before a build), read (stream -> documents)
read       a span -> recognize (first bytes) -> compression -> the format's reader -> Document | Fault
             text        lines, paragraphs or files       json_lines  one field of each object
             parquet     one column                       tar         text files, samples of WebDataset
             warc        records -> http -> charset -> pages (main content of HTML)
documents  what all of them share: InputFile, Span, Rule, Document, Fault
"""
