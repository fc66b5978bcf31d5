"""The label cache on disk: written once, proven by receipts, closed by a seal, read by mapping its files.

layout      which shards and chunks there are: integers only
canonical   one way of writing a JSON document, and no other way of reading it
documents   the job, the receipts and the seal
files       every durable write
lock        one writer at a time
lease       the same where a store has nothing better
places      what a place of a cache promises
directories a directory as a place
buckets     a prefix of an object store as a place
addresses   from what a user writes to the place that it means
shards      the bytes of a shard, as the Zarr v3 sharding codec has them
group       the Zarr documents, and the door to zarr itself
state       what is where in a cache, and how far it is
committer   makes one shard durable, among others who do
writer      begins a cache, fills it and seals it
mirror      copies of what is in buckets, on this machine
span        one reserved stretch of addresses with files mapped into it
windows     rows of one width, copied from any places of memory
residence   which shard files are mapped, and which chunks are proven
selection   some arrays read together
unmapped    the same rows through zarr, where files cannot be mapped
mapped      reads a sealed cache by rows
verify      holds every byte against its proof
"""
