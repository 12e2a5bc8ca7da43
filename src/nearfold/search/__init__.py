"""Search in two stages: codes in memory give candidates, and the vectors themselves put them in order.

`index` has the class that users work with. `candidates` is the first stage and `rerank` the second. `groups`
lets rows share a code, `rows` keeps ids, `vectors` holds or reads the vectors, and `bounds` proves results.
`storage` writes and reads an index's folder, `consistency` checks that its parts belong together, and
`faiss_file` reads its codes.
"""
