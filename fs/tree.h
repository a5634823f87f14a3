/* SPDX-License-Identifier: MIT */
/*
 * What all nodes of a mount share, and their constructors.
 *
 * Inode numbers: 1 is the root, 2 .dvolfs; a volume with the catalogue's id V
 * has V * 256 and its fixed directories the numbers after it.  The top two bits
 * tell what is made up as it is looked up: a moment, a kept snapshot or a file in one,
 * a file in restore/ or in data/, a text (its contents' hash), the log.
 */
#ifndef DVOLFS_FS_TREE_H
#define DVOLFS_FS_TREE_H

#include "base/log.h"
#include "fs/node.h"
#include "job/kept.h"
#include "job/moment.h"
#include "job/spool.h"
#include "volume/volumes.h"

#define INO_ROOT 1
#define INO_CONTROL 2
#define INO_VOLUME(id) ((id) << 8)
#define INO_SNAPSHOTS(id) (INO_VOLUME(id) + 1)
#define INO_RESTORE(id) (INO_VOLUME(id) + 2)
#define INO_DATA(id) (INO_VOLUME(id) + 3)
#define INO_BROWSE_DIR(id) (INO_VOLUME(id) + 4)
#define INO_MOMENT (UINT64_C(1) << 62)
#define INO_INBOX_FILE (UINT64_C(2) << 62)
#define INO_LIVE (INO_INBOX_FILE | (UINT64_C(1) << 61))
#define INO_TEXT (UINT64_C(3) << 62)
#define INO_LOG (INO_MOMENT | (UINT64_C(1) << 61))
/* With a hash of 59 bits. */
#define INO_KEPT (INO_MOMENT | (UINT64_C(1) << 60))
#define INO_BROWSE (INO_KEPT | (UINT64_C(1) << 59))

/* How long the attributes of a kept snapshot may be trusted.  Its name may be for no time:
 * it is there twice, in snapshots/ and browse/, and in other mounts of the store. */
#define KEPT_SECONDS 1.0

/* How long the attributes of our own directories may be trusted: they never change, but
 * whoever looks is to learn soon that the daemon has died. */
#define DIR_SECONDS 1.0

/* How long a volume's name may be trusted.  One that is removed elsewhere is to be gone
 * within a second, of which the engine's event takes some. */
#define VOLUME_NAME_SECONDS 0.5

#define CONTROL_NAME ".dvolfs"

/* A kept snapshot NAME is snapshots/NAME.tar.zst. */
#define KEPT_SUFFIX ".tar.zst"

struct inboxes;
struct openings;

struct tree {
    struct volumes *volumes;
    struct moments *moments;
    struct spool *spool;
    struct inboxes *inboxes;
    struct kept *kept;
    struct openings *openings;
    struct jobs *jobs;
    struct log *log;
    struct timespec mounted_at; /* the mtime of what has no other */
    double cache_seconds;       /* how long live attributes may be trusted */
    /* For status.json: the options in force, "store=...,cache=1". */
    const char *options;
};

/* Constructors return one reference, or NULL without memory.  tree outlives the nodes. */
must_check struct node *node_root_new(struct tree *tree);
must_check struct node *node_control_new(struct tree *tree);
must_check struct node *node_volume_new(struct tree *tree, const struct view_volume *volume);
must_check struct node *node_snapshots_new(struct tree *tree, const char *volume, uint64_t id);
must_check struct node *node_live_new(struct tree *tree, const char *volume, uint64_t id);
must_check struct node *node_browse_new(struct tree *tree, const char *volume, uint64_t id);
must_check struct node *node_restore_new(struct tree *tree, const char *volume, uint64_t id);

/*
 * A read-only file with these contents (copied), at that path within the mount.  Other
 * contents or another path are another inode, so that a size never goes with another version's
 * bytes.
 */
must_check struct node *node_text_new(struct tree *tree, const char *where, const char *text,
                                      size_t len);

/* The archive of a kept snapshot: 0 or -ENOENT, -ENOMEM, -errno. */
must_check int node_kept_new(struct tree *tree, const char *volume, const char *name,
                             struct node **ret_node);

/* 59 bits, for inode numbers. */
uint64_t tree_hash(uint64_t a, uint64_t b);
/* Of which file it is. */
uint64_t tree_hash_stat(const struct stat *st);

/* All but the inode number. */
void tree_fill_stat(const struct file_stat *from, struct stat *st);

/* What every directory of our own answers to getattr: it never changes. */
void tree_stat_dir(const struct tree *tree, mode_t mode, struct stat *ret_stat,
                   double *ret_seconds);

/*
 * To the log: a change was refused, of what is at volume/place/name (volume, place and
 * name may be NULL), and why.
 */
void tree_tell_refused(const struct tree *tree, const char *volume, const char *place,
                       const char *name, const char *why);

/*
 * The same for a whole tree, without the name, and once a second: a program that goes
 * through all of it would push everything else out of the log.  *told_s is when that was.
 */
void tree_tell_refused_below(const struct tree *tree, const char *volume, const char *place,
                             _Atomic int64_t *told_s, const char *why);

/* The snapshots that are open for browse/, of a mount.  NULL: out of memory. */
must_check struct openings *openings_new(void);
void openings_free(struct openings *openings);
/* The archive of that number (tree_hash_stat) has gone: nothing but open files holds it any
 * longer. */
void openings_forget(struct openings *openings, uint64_t file);

/* As kept_remove, and nothing of it stays open but files that are. */
must_check int tree_remove_kept(struct tree *tree, const char *volume, const char *name,
                                struct fail *why);

/* What was dropped into the restore/ directories of a mount, with its receipts. */
must_check struct inboxes *inboxes_new(void);
void inboxes_free(struct inboxes *inboxes);

#endif
