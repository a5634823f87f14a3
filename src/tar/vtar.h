/* SPDX-License-Identifier: MIT */
/*
 * An archive that exists only while it is read: any bytes of it, at any offset,
 * from a layout and the files as they are now.
 *
 * What changed since the layout was made never shifts the rest:
 *   - a file that is gone, or is another or of another type now, before any
 *     byte of its slot was given out: the slot is filled with the root's own
 *     headers once more, which change nothing, and a comment in them (POSIX pax,
 *     "comment"), in units of at most VTAR_UNIT_BYTES, because readers limit the
 *     size of one.  (Not with global headers, type 'g': bsdtar and python give
 *     up after some hundred in a row, and python where one is last.)
 *   - one that goes after that, or is shorter: zeros to its size
 *   - one that grew: what it had
 *   - a hard link to a file that was gone: filled likewise
 * and each such file is counted and told once.
 *
 * Any thread may call vtar_read, several at once.
 */
#ifndef DVOLFS_TAR_VTAR_H
#define DVOLFS_TAR_VTAR_H

#include "base/cancel.h"
#include "tar/layout.h"

/* Where the files are; its functions may be called from several threads at once. */
struct vtar_source {
    /*
     * Opens the file at path for reading: 0 with *ret_file.  dev and ino are
     * those of the layout: -ESTALE where it is another file now; -ENOENT,
     * -ENOTDIR, -ELOOP: gone; anything else is an error of the whole read.
     */
    int (*open)(void *data, const char *path, uint64_t dev, uint64_t ino, struct cancel *cancel,
                void **ret_file, struct fail *why);
    /* Fills buf with len bytes at offset; fewer only at the file's end; -errno. */
    ssize_t (*pread)(void *data, void *file, void *buf, size_t len, uint64_t offset,
                     struct cancel *cancel, struct fail *why);
    void (*close)(void *data, void *file);
    /*
     * Tells, once for a file, what became of it: "is gone", "is shorter", "is a
     * link to a file that is gone".  No lock is held.
     */
    void (*affected)(void *data, const char *path, const char *what);
    /*
     * Optional (NULL): says that open will probably be called soon with the same
     * arguments, for a file of size_bytes.  False: not now, it is to be told later.
     * Only while somebody reads in order; from one thread at a time.
     */
    bool (*expect)(void *data, const char *path, uint64_t dev, uint64_t ino, uint64_t size_bytes);
    void *data;
};

#define VTAR_UNIT_BYTES 65536

struct vtar;

/* layout (finished) and what source points to must outlive it; *source is copied. */
must_check struct vtar *vtar_new(const struct layout *layout, const struct vtar_source *source);

/* Closes the files it holds open.  No read may be under way.  NULL is allowed. */
void vtar_free(struct vtar *vtar);
DEFINE_CLEANUP(cleanup_vtar_impl, struct vtar, vtar_free)
#define cleanup_vtar cleanup(cleanup_vtar_impl)

/*
 * Up to len bytes at offset: fewer only at the archive's end, 0 beyond it.  All
 * or nothing: after an error no byte counts.  Keeps at most VTAR_MAX_OPEN files
 * open.  Blocks on source, which is handed cancel.  -errno of source.open and
 * source.pread; -ENOMEM.
 */
#define VTAR_MAX_OPEN 16
must_check ssize_t vtar_read(struct vtar *vtar, void *buf, size_t len, uint64_t offset,
                             struct cancel *cancel, struct fail *why);

/* How many files are not as the layout said. */
uint64_t vtar_affected(const struct vtar *vtar);

/* Whether the entry's file was not given out as the layout said, as far as it was read; and
 * whether it is not in the archive at all. */
bool vtar_is_affected(const struct vtar *vtar, size_t index);
bool vtar_is_missing(const struct vtar *vtar, size_t index);

/* Says that bytes of the entry were had elsewhere, as the layout says they are: it is
 * not to be filled any more, nor are links to it. */
void vtar_note_given(struct vtar *vtar, size_t index);

#endif
