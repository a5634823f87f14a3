/* SPDX-License-Identifier: MIT */
/*
 * The contents of one volume, file by file: by a way that can tell and open
 * single files (local, agent).  Read only.
 *
 * Any thread may call.  All calls block on the disk; contents_walk, which may take
 * long, gives up with -EINTR when cancel is raised, the others where they can.  Nothing leads out
 * of the volume.
 */
#ifndef DVOLFS_VOLUME_CONTENTS_H
#define DVOLFS_VOLUME_CONTENTS_H

#include "agent/inspect.h"
#include "base/cancel.h"
#include "base/fail.h"

struct contents;
struct contents_file;
struct contents_dir;

/* One file of contents_open_many. */
struct contents_want {
    const char *path;
    uint64_t dev, id;
    int result;                 /* as contents_open's */
    struct contents_file *file; /* where result is 0, the caller's to close; else NULL */
};

/* Takes a record; a negative errno ends the listing and is its result. */
typedef int contents_fn(void *data, const struct file *file);

/* What a way has to offer; see the functions below for the contracts.  The files and
 * listings that it opens may be of other contents, to which they have a reference then. */
struct contents_ops {
    int (*stat)(struct contents *contents, const char *path, unsigned flags, struct cancel *cancel,
                struct buf *ret_record);
    int (*dir_open)(struct contents *contents, const char *path, struct cancel *cancel,
                    struct contents_dir **ret_dir);
    int (*dir_next)(struct contents_dir *dir, size_t max_bytes, struct cancel *cancel,
                    struct buf *ret_records);
    void (*dir_close)(struct contents_dir *dir);
    int (*walk)(struct contents *contents, struct cancel *cancel, contents_fn *fn, void *data,
                struct fail *why);
    int (*open)(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                struct cancel *cancel, struct contents_file **ret_file);
    ssize_t (*read)(struct contents_file *file, void *data, size_t len, uint64_t offset,
                    struct cancel *cancel);
    int64_t (*seek)(struct contents_file *file, uint64_t offset, int whence, struct cancel *cancel);
    void (*close)(struct contents_file *file);
    void (*open_many)(struct contents *contents, struct contents_want *wants, size_t count,
                      struct cancel *cancel);
    int (*sync)(struct contents *contents, struct cancel *cancel, int64_t *ret_s, uint32_t *ret_ns);
    /* Optional (NULL): see contents_hold. */
    void (*hold)(struct contents *contents);
    void (*let_go)(struct contents *contents);
    void (*free)(struct contents *contents);
};

/* The heads that the ways embed. */
struct contents {
    const struct contents_ops *ops;
    _Atomic int refs;
};
struct contents_file {
    struct contents *contents;
};
struct contents_dir {
    struct contents *contents;
};

struct contents *contents_ref(struct contents *contents);
/* The last one lets go of the volume.  NULL is allowed. */
void contents_unref(struct contents *contents);
DEFINE_CLEANUP(cleanup_contents_impl, struct contents, contents_unref)
#define cleanup_contents cleanup(cleanup_contents_impl)

/*
 * From hold to let_go the volume stays mounted where it is read: its files keep their
 * device numbers, and an agent is there at once.
 */
void contents_hold(struct contents *contents);
void contents_let_go(struct contents *contents);

/* Adds the record of the file at path ("" is the root), with what flags ask for
 * (agent/inspect.h).
 * -ENOENT, -ENOTDIR, -ELOOP: no such file; -errno. */
must_check int contents_stat(struct contents *contents, const char *path, unsigned flags,
                             struct cancel *cancel, struct buf *ret_record);

/* Begins to list a directory, sorted by name.  -ENOTDIR, -ENOENT, -errno. */
must_check int contents_dir_open(struct contents *contents, const char *path, struct cancel *cancel,
                                 struct contents_dir **ret_dir);
/* Adds the next records, without attributes and extents, about max_bytes of
 * them: 1, or 0 when there are no more.  One thread at a time. */
must_check int contents_dir_next(struct contents_dir *dir, size_t max_bytes, struct cancel *cancel,
                                 struct buf *ret_records);
void contents_dir_close(struct contents_dir *dir);

/*
 * Calls fn for every file of the volume, in an archive's order, names being
 * paths, with attributes and extents.  A file that cannot be told is an error.
 * fn's own failure is returned as it is, and its reason is fn's to tell.
 */
must_check int contents_walk(struct contents *contents, struct cancel *cancel, contents_fn *fn,
                             void *data, struct fail *why);

/*
 * Opens a regular file for reading, provided it is still the one of dev and id
 * (file_identity): else -ESTALE.  -ENOENT, -ENOTDIR, -ELOOP: gone; -errno of openat2(2).
 */
must_check int contents_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                             struct cancel *cancel, struct contents_file **ret_file);

/* Up to len bytes at offset, fewer only at the file's end; -errno. */
must_check ssize_t contents_read(struct contents_file *file, void *data, size_t len,
                                 uint64_t offset, struct cancel *cancel);
/* As lseek(2) with SEEK_DATA and SEEK_HOLE: the offset; -ENXIO; -EINVAL. */
must_check int64_t contents_seek(struct contents_file *file, uint64_t offset, int whence,
                                 struct cancel *cancel);
void contents_close(struct contents_file *file);

/*
 * Opens several files at once, each as contents_open would; those of at most
 * CONTENTS_SMALL_BYTES are read at once too, and what contents_read gives is what
 * they were then.  For reading ahead: it costs less than one after the other.
 */
#define CONTENTS_SMALL_BYTES ((size_t)64 * 1024)
void contents_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                        struct cancel *cancel);

/*
 * Writes what is dirty to the disk, so that whatever is stored from now on changes a
 * file's ctime.  The time before it began, by the clock that ctimes are of: a file
 * changed since may be changed again without a new ctime.  INT64_MIN seconds where
 * nothing is known of any file (see inspect_sync).  -EINTR, -EIO.
 */
must_check int contents_sync(struct contents *contents, struct cancel *cancel, int64_t *ret_s,
                             uint32_t *ret_ns);

#endif
