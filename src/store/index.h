/* SPDX-License-Identifier: MIT */
/*
 * What is in a kept snapshot and where: an SQLite database beside the archive, so
 * that a directory can be listed and a file found without reading the archive.
 *
 * It can be made again from the archive at any time, and is not believed: every page
 * has a hash that is checked when it is read (store/pagefile.h), every value is
 * checked for whether it makes sense, and an index that does not name its archive's
 * size and seal counts as missing.
 */
#ifndef DVOLFS_STORE_INDEX_H
#define DVOLFS_STORE_INDEX_H

#include "agent/file.h"
#include "base/fail.h"

#define INDEX_KEY_BYTES 16
#define INDEX_VERSION 1

/* One entry.  Everything in file points to memory of whoever gave it. */
struct index_entry {
    uint64_t id;     /* its place in the archive; the root is 0 */
    uint64_t parent; /* the directory it is in; of the root 0 */
    uint64_t target; /* of a second name of a file: the entry of the first; else id */
    uint64_t offset; /* of a regular file: where its stored bytes begin in the archive as
                        it is decompressed; those of a sparse file are its extents, one
                        behind the other */
    /* name: within the directory.  Read from an index: ino is target; blocks are as many
     * as the data takes; dev, ctime, atime and birth are 0. */
    struct file file;
};

/* What an index says of its archive. */
struct index_about {
    uint64_t archive_bytes; /* of the file */
    uint64_t seal;          /* seekable_seal */
    uint8_t sha256[32];     /* of the file */
    int64_t taken_s;        /* seconds since 1970 */
    char consistency[16];   /* "live", "paused", "stopped", "hooked", "imported", "unknown" */
    uint64_t entries;
};

/* ---- writing: one thread --------------------------------------------------------- */

struct index_writer;

/* Into the empty file at path.  -errno with why: -ENOSPC, -EIO, ... of SQLite. */
must_check int index_writer_new(const char *path, struct index_writer **ret_writer,
                                struct fail *why);
/* Of one that is not finished the file is good for nothing.  NULL is allowed. */
void index_writer_free(struct index_writer *writer);
DEFINE_CLEANUP(cleanup_index_writer_impl, struct index_writer, index_writer_free)
#define cleanup_index_writer cleanup(cleanup_index_writer_impl)

/*
 * Adds an entry; extents as for file_write.  The root comes first, then the others with
 * rising ids, a directory before what is in it.  Of a second name the file but for its
 * name is not looked at: it has all that the first has.
 *
 * -EINVAL: it makes no sense, or there is one of that name; -ENAMETOOLONG: over NAME_MAX;
 * -ENOSPC, -EIO, ...  After an error the index is good for nothing.
 */
must_check int index_add(struct index_writer *writer, const struct index_entry *entry,
                         const struct file_extent *extents, struct fail *why);

/* Says that frame `number` of the archive is what this key stands for.  Errors as
 * index_add; a number once. */
must_check int index_add_frame(struct index_writer *writer, uint64_t number,
                               const uint8_t key[INDEX_KEY_BYTES], struct fail *why);

/* Completes and closes it; not synced.  entries of about is not looked at.  Only
 * index_writer_free may follow. */
must_check int index_finish(struct index_writer *writer, const struct index_about *about,
                            struct fail *why);

/* ---- reading: any thread, one at a time within ------------------------------------- */

/* Memory for an open index: up to 2 MiB of its pages, and 8 bytes for each page of it. */

struct index;

/* Takes no longer for a large one.  -ENODATA: there is none, of another version, not
 * finished, or damaged as far as that is seen at once; -errno with why.  The file may
 * be removed or replaced meanwhile. */
must_check int index_open(const char *path, struct index **ret_index, struct fail *why);
void index_close(struct index *index);
DEFINE_CLEANUP(cleanup_index_impl, struct index, index_close)
#define cleanup_index cleanup(cleanup_index_impl)

void index_about(const struct index *index, struct index_about *ret_about);

/* Takes an entry, valid during the call; a negative errno ends the listing with it.  It
 * must not call for the same index. */
typedef int index_fn(void *data, const struct index_entry *entry);

/* The calls below: -EBADMSG with why: the index is damaged; -EIO, -ENOMEM. */

/* Calls fn once, for the entry of that id, or that name in a directory, and returns what
 * it does.  -ENOENT. */
must_check int index_get(struct index *index, uint64_t id, index_fn *fn, void *data,
                         struct fail *why);
must_check int index_find(struct index *index, uint64_t parent, const char *name, index_fn *fn,
                          void *data, struct fail *why);

/* Calls fn for up to max of a directory's entries whose names sort behind `after` (bytewise;
 * NULL: from the first on), in order: how many. */
must_check int index_list(struct index *index, uint64_t parent, const char *after, unsigned max,
                          index_fn *fn, void *data, struct fail *why);

/* Makes, in the empty file at path, the index of another archive which is the same as this
 * one's, byte for byte, but was taken at another time; not synced.  -EBADMSG: this one is
 * damaged; errors as index_writer_new.  After an error the file is good for nothing. */
must_check int index_copy(struct index *index, const char *path, int64_t taken_s,
                          const char *consistency, struct fail *why);

/* Calls fn for all keys of frames, by rising numbers; a negative errno ends it. */
must_check int index_frames(struct index *index,
                            int (*fn)(void *data, uint64_t number,
                                      const uint8_t key[INDEX_KEY_BYTES]),
                            void *data, struct fail *why);

#endif
