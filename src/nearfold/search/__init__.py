"""Search in two stages: codes in memory give candidates, and the vectors themselves put them in order.

`index` is what users hold. `candidates` is the first stage and `rerank` the second; `groups` lets rows share
a code, `rows` keeps ids, `vectors` says where the vectors are, and `bounds` proves results. `storage` keeps
an index in a folder, `consistency` checks that its parts belong together, and `faiss_file` reads its codes.
"""
