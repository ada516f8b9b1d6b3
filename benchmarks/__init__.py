"""Side by side with torch and the recurrent networks of JAX: `jaxrnn bench`.

A **size** is B, T, I, H, layers and directions (`sizes`); a **job** is one size, network and mode (`jobs`), and
`plans` says which jobs a command line asks for. Each job runs in a fresh process (`child`), in which **contenders**
(`contenders/`) do the same work in turns (`timing`). Its **record** joins those of the other jobs in a document
(`runs`), which `table` and `plot` show.
"""
