"""Pages for people: the report that `regime demo` writes."""
