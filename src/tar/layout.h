/* SPDX-License-Identifier: MIT */
/*
 * Where everything stands in an archive that is not written yet: entries in,
 * offsets and the exact size out.  Pure, and independent of the files' contents:
 * the same entries give the same archive, byte for byte.
 *
 * A pax archive as tar/header.h writes it, names beginning with "./", and more
 * than a plain header holds:
 *   - mtime always with nine decimals where it has nanoseconds
 *   - a second name of a file (same dev, ino; nlink over 1) is a hard link to
 *     the first, and has no attributes of its own
 *   - a sparse file is GNU's pax sparse format 1.0 (GNU tar manual, "Storing
 *     Sparse Files"), its map in front of its data; its runs are widened to
 *     whole blocks
 *   - attributes as SCHILY.xattr.*; POSIX ACLs also as SCHILY.acl.access and
 *     .default in numeric text, for tars that take them only so
 *   - sockets are left out, as by tar(1)
 * It ends with two blocks of zeros.
 *
 * Memory for each entry: see LAYOUT_ENTRY_BYTES, its own name (not its path),
 * and what only some have: link target, attributes, extents, device number,
 * another dev than the root's; while it is filled, about 100 bytes more for
 * each file of several names.
 *
 * Filled by one thread; once layout_finish has been called it is immutable and
 * any thread may read it.
 */
#ifndef DVOLFS_TAR_LAYOUT_H
#define DVOLFS_TAR_LAYOUT_H

#include "base/buf.h"
#include "base/fail.h"
#include "tar/entry.h"

#include <stdbool.h>

/* Upper bound on the memory of one entry beside its name and extras. */
#define LAYOUT_ENTRY_BYTES 128

/* Of one entry's headers: libarchive reads no larger pax record than 999999
 * bytes, Go no larger pax header than 1 MiB. */
#define LAYOUT_HEADER_MAX_BYTES ((size_t)1955 * 512)

struct layout;

/* What an archive entry does not tell but a layout needs. */
struct layout_identity {
    uint64_t dev, ino;
    uint32_t nlink;
    int64_t ctime_s;
    uint32_t ctime_ns;
};

must_check struct layout *layout_new(void);
void layout_free(struct layout *layout);
DEFINE_CLEANUP(cleanup_layout_impl, struct layout, layout_free)
#define cleanup_layout cleanup(cleanup_layout_impl)

/*
 * Adds the next entry; depth first, a directory before what is in it, the root
 * ("") first.  entry->is_hard_link is ignored: identity tells.  Copies all it
 * needs.  After an error the layout is what it was before.  -ENOMEM; -EINVAL:
 * its parent is neither the directory added last nor one that that is in, or
 * it makes no sense (name, type, extents, nanoseconds); -EOVERFLOW: headers
 * over LAYOUT_HEADER_MAX_BYTES, ids over 32 bits, more than 2^63 bytes or 2^32
 * entries, names over 4 GiB in all.
 */
must_check int layout_add(struct layout *layout, const struct tar_entry *entry,
                          const struct layout_identity *identity);

/* No more entries: the archive's size is known. */
void layout_finish(struct layout *layout);

uint64_t layout_bytes(const struct layout *layout);
size_t layout_count(const struct layout *layout);

/* The newest of all ctimes: the last change in the tree.  (Every change sets a file's ctime;
 * its mtime may be anything, and one in the future would hide all changes until then.) */
void layout_newest(const struct layout *layout, int64_t *ret_s, uint32_t *ret_ns);

/* Where an entry stands: its headers, then its data (in a sparse file: map and
 * runs), each padded to whole blocks. */
struct layout_slot {
    size_t index;
    uint64_t offset;       /* of its headers in the archive */
    uint64_t header_bytes; /* all header blocks */
    uint64_t data_bytes; /* without padding: what the file's own bytes take, or the map and runs */
    uint64_t slot_bytes; /* all of it, with padding */
    uint64_t map_bytes;  /* of the data, those of the map */
    size_t parent;       /* the index of the directory it is in; the root is its own */
    uint64_t dev, ino;   /* the file it was; for a check when it is opened */
    int64_t ctime_s;
    uint32_t ctime_ns;
    bool is_sparse;
    uint64_t size_bytes; /* of the file */
    bool has_data;       /* something has to be read from the file */
    size_t link_to;      /* of a hard link: the index of the first name; else index */
};

/* The entry whose slot holds the archive's byte at offset: 1, or 0 where that is
 * in the end blocks or beyond. */
int layout_find(const struct layout *layout, uint64_t offset, struct layout_slot *ret_slot);

/* The slot of an index below layout_count. */
void layout_slot(const struct layout *layout, size_t index, struct layout_slot *ret_slot);

/* What the entry is, pointing into layout; its name within its directory is returned,
 * and those of a hard link's target and the runs are left out. */
const char *layout_entry(const struct layout *layout, size_t index, struct tar_entry *ret_entry);

/* A sparse file's run of that number, as it is stored; false: there are no more. */
bool layout_run(const struct layout *layout, size_t index, size_t number,
                struct tar_extent *ret_run);

/* Adds the header blocks of the entry: exactly slot.header_bytes.  -ENOMEM, -EMSGSIZE. */
must_check int layout_header(const struct layout *layout, size_t index, struct buf *out);

/* Adds `bytes` (whole blocks) that can stand in place of any entry but the
 * root: see tar_header_write_filler.  -ENOMEM, -EMSGSIZE. */
must_check int layout_filler(const struct layout *layout, size_t bytes, struct buf *out);

/* Adds the entry's path from the root, without "./".  -ENOMEM, -EMSGSIZE. */
must_check int layout_path(const struct layout *layout, size_t index, struct buf *out);

/*
 * What stands at `at` of an entry's data (below data_bytes): either bytes of
 * the sparse map, added to out, or a run of the file.
 */
struct layout_piece {
    bool is_map;
    uint64_t file_offset; /* of the run, where it is no map */
    uint64_t bytes;       /* from `at` on; of a map no more than LAYOUT_MAP_PIECE_BYTES */
};
#define LAYOUT_MAP_PIECE_BYTES 65536
must_check int layout_data(const struct layout *layout, size_t index, uint64_t at,
                           struct layout_piece *ret_piece, struct buf *map_out);

#endif
