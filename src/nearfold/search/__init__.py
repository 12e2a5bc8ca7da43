"""Two-stage search: a reduced index in memory finds candidates, full vectors on disk put them in order.

`index` is what users hold; `reduced` makes the first stage, `rerank` is the second, `full` says where
full vectors come from, `certified` proves results, `saved` keeps an index in a folder.
"""
