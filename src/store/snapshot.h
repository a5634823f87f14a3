/* SPDX-License-Identifier: MIT */
/*
 * A kept snapshot, opened: its tree by the index, its files' bytes out of the
 * frames that hold them, each checked before a byte of it is given out.
 *
 * Decompressed frames are kept in a cache that all snapshots share, up to its
 * bound; a frame that several want is decompressed once.  Any thread may call;
 * calls block on the disk and the processor.
 */
#ifndef DVOLFS_STORE_SNAPSHOT_H
#define DVOLFS_STORE_SNAPSHOT_H

#include "store/index.h"
#include "store/seekable.h"
#include "store/snapshot_cache.h"

struct snapshot;

/*
 * Opens the archive in fd (taken, also on failure) with the index at that path; one
 * reference.  The cache must outlive the last.  -ENODATA: there is no index of this
 * archive, and one must be made; -EBADMSG: the archive's own table is damaged or
 * missing; -errno with why.
 */
must_check int snapshot_open(int fd, const char *index_path, struct snapshot_cache *cache,
                             struct snapshot **ret_snapshot, struct fail *why);
struct snapshot *snapshot_ref(struct snapshot *snapshot);
/* The last one closes it.  NULL is allowed. */
void snapshot_unref(struct snapshot *snapshot);
DEFINE_CLEANUP(cleanup_snapshot_impl, struct snapshot, snapshot_unref)
#define cleanup_snapshot cleanup(cleanup_snapshot_impl)

/* A number that stands for the archive: the same whenever it is opened, and (but by
 * chance) another for others. */
uint64_t snapshot_id(const struct snapshot *snapshot);

void snapshot_about(const struct snapshot *snapshot, struct index_about *ret_about);
struct index *snapshot_index(struct snapshot *snapshot); /* NULL: opened bare */
const struct seekable *snapshot_seekable(const struct snapshot *snapshot);
int snapshot_fd(const struct snapshot *snapshot);

/* A run of a file's data, and where in the archive, decompressed, it is. */
struct snapshot_run {
    uint64_t offset;
    uint64_t bytes;
    uint64_t archive_offset;
};

/* Where the bytes of a regular file are.  Made of its entry, kept by whoever has it
 * open; any thread may read it. */
struct snapshot_file {
    uint64_t size_bytes;
    struct snapshot_run *runs; /* in order; what lies between them is a hole */
    size_t run_count;
};

/* Of an entry as the index gives it, within the call that gives it too.  -EISDIR,
 * -EINVAL: no regular file; -EBADMSG: its data would not lie within the archive;
 * -ENOMEM. */
must_check int snapshot_file_open(struct snapshot *snapshot, const struct index_entry *entry,
                                  struct snapshot_file *ret_file, struct fail *why);
/* One that is all zeros is allowed. */
void snapshot_file_done(struct snapshot_file *file);
#define cleanup_snapshot_file cleanup(snapshot_file_done)

/* Up to len bytes at offset, fewer only at the file's end; holes are zeros.  -EIO
 * with why: a frame is damaged, and none of the bytes is to be used; -ENOMEM. */
must_check ssize_t snapshot_read(struct snapshot *snapshot, const struct snapshot_file *file,
                                 void *data, size_t len, uint64_t offset, struct fail *why);

/* As lseek(2) with SEEK_DATA and SEEK_HOLE: the offset; -ENXIO, -EINVAL. */
must_check int64_t snapshot_seek(const struct snapshot_file *file, uint64_t offset, int whence);

/* Up to len bytes of the archive as it is decompressed, for making the index anew;
 * errors as snapshot_read.  Works without an index too (see snapshot_open_bare). */
must_check ssize_t snapshot_read_archive(struct snapshot *snapshot, void *data, size_t len,
                                         uint64_t offset, struct fail *why);

/* As snapshot_open without an index: for snapshot_read_archive alone. */
must_check int snapshot_open_bare(int fd, struct snapshot_cache *cache,
                                  struct snapshot **ret_snapshot, struct fail *why);

#endif
