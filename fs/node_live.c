/* SPDX-License-Identifier: MIT */
/*
 * data/: the live contents of a volume, as they are.
 *
 * A node knows where its file was found (a path below the volume's root) and
 * which file it is (device, inode and time of birth).  Nothing is held open for
 * it: each request goes by the path again, and finds the same file or answers
 * ESTALE, upon which the kernel looks the name up anew.  The node's number is
 * made of what identifies the file, so that the names of one file share a node
 * and a new file never inherits the caches of an old one.
 */
#include "fs/tree.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Records that a directory hands out at once. */
#define LIST_BYTES ((size_t)32 * 1024)
#define LIST_MAX_BYTES ((size_t)64 << 20)
/* One record with its attributes. */
#define RECORD_MAX_BYTES ((size_t)4 << 20)

/* Files up to this go to the kernel whole when they are opened. */
#define SMALL_BYTES CONTENTS_SMALL_BYTES

/* What all nodes of one volume's data/ share. */
struct live_volume {
    atomic_int refs;
    struct tree *tree;
    char *name;
    uint64_t id;
    pthread_mutex_t lock;
    unsigned waits;            /* NODE_WAITS_... of its nodes */
    struct contents *contents; /* NULL: not reached yet, or no longer */
    unsigned generation;       /* volumes_generation when it was reached */
    bool is_told;              /* that it cannot be reached */
    _Atomic int64_t told_refused_s;
};

struct live {
    struct node node;
    struct live_volume *volume;
    bool is_root;
    pthread_mutex_t lock;
    char *path;                  /* under the lock: another name of the file may be looked up */
    uint64_t dev, id;            /* file_identity */
    _Atomic uint64_t told_bytes; /* its size, as the kernel was told last */
    _Atomic uint64_t read_bytes; /* no page behind that was ever given to the kernel */
};

struct lister {
    struct contents_dir *dir;
    char *path;
};

/* ---- the volume ---------------------------------------------------------------------- */

static struct live_volume *volume_ref(struct live_volume *volume)
{
    atomic_fetch_add(&volume->refs, 1);
    return volume;
}

static void volume_unref(struct live_volume *volume)
{
    if (!volume || atomic_fetch_sub(&volume->refs, 1) != 1)
        return;
    contents_unref(volume->contents);
    (void)pthread_mutex_destroy(&volume->lock);
    free(volume->name);
    free(volume);
}

/* The contents that were reached before; NULL: none, or perhaps another engine's by now. */
static struct contents *known(struct live_volume *volume, unsigned generation)
{
    struct contents *outdated = NULL;
    struct contents *contents = NULL;
    {
        scoped_lock(&volume->lock);
        if (volume->contents && volume->generation != generation)
            outdated = take(volume->contents);
        else if (volume->contents)
            contents = contents_ref(volume->contents);
    }
    contents_unref(outdated);
    return contents;
}

/* Once, until it is reached again. */
static void tell(struct live_volume *volume, int r, const struct fail *why)
{
    {
        scoped_lock(&volume->lock);
        if (volume->is_told || r == -EINTR || r == -ENOENT)
            return;
        volume->is_told = true;
    }
    log_event(volume->tree->log, "%s/data: %s", volume->name, fail_text(why, r));
}

static int reach(struct live_volume *volume, const struct request *request,
                 struct contents **ret_contents)
{
    unsigned generation = volumes_generation(volume->tree->volumes);
    struct contents *contents = known(volume, generation);
    if (contents) {
        *ret_contents = contents;
        return 0;
    }
    struct fail why = FAIL_INIT;
    int r = volumes_contents(volume->tree->volumes, volume->name, request->cancel, &contents, &why);
    if (r < 0) {
        tell(volume, r, &why);
        return r;
    }
    scoped_lock(&volume->lock);
    volume->is_told = false;
    if (volume->contents) { /* another thread was as quick */
        contents_unref(contents);
    } else {
        volume->contents = contents;
        volume->generation = generation;
    }
    *ret_contents = contents_ref(volume->contents);
    return 0;
}

/* The volume's directory is not there any more: perhaps there is a new one. */
static void let_go(struct live_volume *volume, const struct contents *contents)
{
    struct contents *gone = NULL;
    {
        scoped_lock(&volume->lock);
        if (volume->contents == contents)
            gone = take(volume->contents);
    }
    contents_unref(gone);
}

/* ---- nodes ------------------------------------------------------------------------------ */

static const struct node_ops live_ops;

static uint64_t number_of(uint64_t volume, const struct file_stat *st)
{
    return INO_LIVE | tree_hash(tree_hash(volume, st->dev), file_identity(st));
}

static struct live *live_new(struct live_volume *volume, char *path, uint64_t number)
{
    struct live *live = path ? calloc(1, sizeof(*live)) : NULL;
    if (!live) {
        free(path);
        return NULL;
    }
    node_init(&live->node, &live_ops, number);
    live->node.waits = volume->waits;
    (void)pthread_mutex_init(&live->lock, NULL);
    live->volume = volume_ref(volume);
    live->path = path;
    return live;
}

/* The node of a file that was found at the path. */
static struct live *live_new_of(struct live_volume *volume, char *path, const struct file_stat *st)
{
    struct live *live = live_new(volume, path, number_of(volume->id, st));
    if (!live)
        return NULL;
    live->dev = st->dev;
    live->id = file_identity(st);
    live->told_bytes = st->size_bytes;
    return live;
}

static void live_free(struct node *node)
{
    struct live *live = (struct live *)node;
    volume_unref(live->volume);
    (void)pthread_mutex_destroy(&live->lock);
    free(live->path);
    free(live);
}

static char *path_of(struct live *live)
{
    scoped_lock(&live->lock);
    return strdup(live->path);
}

static void live_refresh(struct node *known, struct node *fresh)
{
    struct live *live = (struct live *)known;
    struct live *newer = (struct live *)fresh;
    if (live->is_root)
        return;
    atomic_store(&live->told_bytes, newer->told_bytes);
    char *path = take(newer->path);
    scoped_lock(&live->lock);
    newer->path = live->path; /* freed with it */
    live->path = path;
}

static char *join(const char *dir, const char *name)
{
    size_t dir_bytes = strlen(dir), name_bytes = strlen(name);
    char *path = malloc(dir_bytes + 1 + name_bytes + 1);
    if (!path)
        return NULL;
    char *end = stpcpy(path, dir);
    if (dir_bytes)
        *end++ = '/';
    (void)stpcpy(end, name);
    return path;
}

/* ---- asking ------------------------------------------------------------------------------- */

/* A record of the node's file, as it is now, in *record (initialised). */
struct asked {
    struct buf record;
    struct file file;
};

/* Asks for what is at the path, whatever it is. */
static int ask_path(struct live_volume *volume, const char *path, unsigned flags,
                    const struct request *request, struct asked *asked)
{
    struct contents *contents cleanup_contents = NULL;
    int r = reach(volume, request, &contents);
    if (r < 0)
        return r;
    r = contents_stat(contents, path, flags, request->cancel, &asked->record);
    if (r < 0)
        return r;
    size_t position = 0;
    if (file_read(buf_string(&asked->record), asked->record.len, &position, &asked->file) != 1)
        return -EIO;
    if (!path[0] && asked->file.stat.nlink == 0) {
        let_go(volume, contents);
        return -ESTALE;
    }
    return 0;
}

/* Asks for the node's file: -ESTALE where another is in its place. */
static int ask(struct live *live, unsigned flags, const struct request *request,
               struct asked *asked)
{
    cleanup_free char *path = path_of(live);
    if (!path)
        return -ENOMEM;
    int r = ask_path(live->volume, path, flags, request, asked);
    if (r == -ESTALE && live->is_root) { /* once more, in the new directory */
        buf_clear(&asked->record);
        r = ask_path(live->volume, path, flags, request, asked);
    }
    if (r == 0 && !live->is_root &&
        number_of(live->volume->id, &asked->file.stat) != live->node.ino)
        r = -ESTALE;
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? -ESTALE : r;
}

static void asked_init(struct asked *asked)
{
    buf_init(&asked->record, RECORD_MAX_BYTES);
}

static void asked_done(struct asked *asked)
{
    buf_done(&asked->record);
}
#define cleanup_asked cleanup(asked_done)

static int live_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                        double *ret_seconds)
{
    struct live *live = (struct live *)node;
    struct asked asked cleanup_asked;
    asked_init(&asked);
    int r = ask(live, 0, request, &asked);
    if (r < 0)
        return r;
    tree_fill_stat(&asked.file.stat, ret_stat);
    atomic_store(&live->told_bytes, asked.file.stat.size_bytes);
    *ret_seconds = live->volume->tree->cache_seconds;
    return 0;
}

/* Only a volume's root is looked up without waiting. */
static void live_peek(struct node *node, struct stat *ret_stat)
{
    (void)node;
    ret_stat->st_mode = S_IFDIR | 0755;
    ret_stat->st_nlink = 2;
}

static int live_lookup(struct node *dir, const struct request *request, const char *name,
                       struct node **ret_child, double *ret_seconds)
{
    struct live *live = (struct live *)dir;
    cleanup_free char *parent = path_of(live);
    cleanup_free char *path = parent ? join(parent, name) : NULL;
    struct asked asked cleanup_asked;
    asked_init(&asked);
    int r = path ? ask_path(live->volume, path, 0, request, &asked) : -ENOMEM;
    if (r < 0)
        return r == -ELOOP ? -ENOENT : r;
    struct live *child = live_new_of(live->volume, take(path), &asked.file.stat);
    if (!child)
        return -ENOMEM;
    *ret_child = &child->node;
    *ret_seconds = live->volume->tree->cache_seconds;
    return 0;
}

static int live_readlink(struct node *node, const struct request *request, struct buf *out)
{
    struct asked asked cleanup_asked;
    asked_init(&asked);
    int r = ask((struct live *)node, 0, request, &asked);
    if (r == 0 && !S_ISLNK(asked.file.stat.mode))
        r = -EINVAL;
    return r < 0 ? r : buf_add_string(out, asked.file.link_target);
}

static int live_get_xattr(struct node *node, const struct request *request, const char *name,
                          struct buf *out)
{
    struct asked asked cleanup_asked;
    asked_init(&asked);
    int r = ask((struct live *)node, INSPECT_XATTRS, request, &asked);
    size_t position = 0, value_bytes;
    const char *found;
    const void *value;
    while (r == 0 && file_xattr_next(&asked.file, &position, &found, &value, &value_bytes))
        if (strcmp(found, name) == 0)
            return buf_add(out, value, value_bytes);
    return r < 0 ? r : -ENODATA;
}

static int live_list_xattrs(struct node *node, const struct request *request, struct buf *out)
{
    struct asked asked cleanup_asked;
    asked_init(&asked);
    int r = ask((struct live *)node, INSPECT_XATTRS, request, &asked);
    size_t position = 0, value_bytes;
    const char *name;
    const void *value;
    while (r == 0 && file_xattr_next(&asked.file, &position, &name, &value, &value_bytes))
        r = buf_add(out, name, strlen(name) + 1);
    return r;
}

/* ---- reading -------------------------------------------------------------------------------- */

static int live_open(struct node *node, const struct request *request, int flags,
                     struct opened *ret_opened)
{
    (void)flags;
    struct live *live = (struct live *)node;
    cleanup_free char *path = path_of(live);
    struct contents *contents cleanup_contents = NULL;
    int r = path ? reach(live->volume, request, &contents) : -ENOMEM;
    if (r < 0)
        return r;
    struct contents_file *file;
    r = contents_open(contents, path, live->dev, live->id, request->cancel, &file);
    if (r < 0)
        return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? -ESTALE : r;
    /* The handle is the file itself. */
    uint64_t told = atomic_load(&live->told_bytes);
    bool is_small = told > 0 && told <= SMALL_BYTES;
    *ret_opened = (struct opened){.handle = (struct handle *)file,
                                  .caching = is_small ? OPEN_PREFILL : OPEN_PLAIN};
    return 0;
}

/* Pages up to there may be the kernel's from now on. */
static void note_read(struct live *live, uint64_t end)
{
    uint64_t known = atomic_load(&live->read_bytes);
    while (end > known && !atomic_compare_exchange_weak(&live->read_bytes, &known, end))
        ;
}

/*
 * The kernel goes by the size that it was told, and drops no page then: so a file
 * that has outgrown its size is left to READ, and so is one that has become
 * shorter than what the kernel may have of it.
 */
static ssize_t live_read_whole(struct node *node, struct handle *handle,
                               const struct request *request, char **ret_data)
{
    struct live *live = (struct live *)node;
    size_t most = atomic_load(&live->told_bytes);
    if (most > SMALL_BYTES)
        return 0;
    cleanup_free char *data = malloc(most + 1);
    if (!data)
        return -ENOMEM;
    ssize_t n = contents_read((struct contents_file *)handle, data, most + 1, 0, request->cancel);
    if (n < 0)
        return n;
    if ((size_t)n > most || (uint64_t)n < atomic_load(&live->read_bytes))
        return 0;
    note_read(live, (uint64_t)n);
    *ret_data = take(data);
    return n;
}

static ssize_t live_read(struct node *node, struct handle *handle, const struct request *request,
                         void *data, size_t len, uint64_t offset)
{
    ssize_t n = contents_read((struct contents_file *)handle, data, len, offset, request->cancel);
    if (n > 0)
        note_read((struct live *)node, offset + (uint64_t)n);
    return n;
}

static int64_t live_seek(struct node *node, struct handle *handle, const struct request *request,
                         uint64_t offset, int whence)
{
    (void)node;
    return contents_seek((struct contents_file *)handle, offset, whence, request->cancel);
}

static void live_release(struct node *node, struct handle *handle)
{
    (void)node;
    contents_close((struct contents_file *)handle);
}

/* ---- listing --------------------------------------------------------------------------------- */

static int live_list_open(struct node *node, const struct request *request,
                          struct lister **ret_lister)
{
    struct live *live = (struct live *)node;
    struct contents *contents cleanup_contents = NULL;
    struct lister *lister = calloc(1, sizeof(*lister));
    int r = lister && (lister->path = path_of(live)) ? 0 : -ENOMEM;
    if (r == 0)
        r = reach(live->volume, request, &contents);
    if (r == 0)
        r = contents_dir_open(contents, lister->path, request->cancel, &lister->dir);
    if (r < 0) {
        if (lister)
            free(lister->path);
        free(lister);
        return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? -ESTALE : r;
    }
    *ret_lister = lister;
    return 0;
}

static int emit_child(struct live *live, const struct lister *lister, const struct file *file,
                      node_emit_child_fn *emit, void *data)
{
    struct live *child = live_new_of(live->volume, join(lister->path, file->name), &file->stat);
    if (!child)
        return -ENOMEM;
    struct stat st = {.st_ino = child->node.ino, .st_blksize = NODE_BLOCK_BYTES};
    tree_fill_stat(&file->stat, &st);
    return emit(data, file->name, &child->node, &st, live->volume->tree->cache_seconds);
}

static int live_list_next(struct node *node, struct lister *lister, const struct request *request,
                          node_emit_child_fn *emit, void *data)
{
    struct buf records cleanup_buf;
    buf_init(&records, LIST_MAX_BYTES);
    int more = contents_dir_next(lister->dir, LIST_BYTES, request->cancel, &records);
    size_t position = 0;
    struct file file;
    int r = 0;
    while (more > 0 && r >= 0 &&
           (r = file_read(buf_string(&records), records.len, &position, &file)) > 0)
        r = emit_child((struct live *)node, lister, &file, emit, data);
    if (r == -EBADMSG)
        r = -EIO;
    return r < 0 ? r : more;
}

static void live_list_close(struct node *node, struct lister *lister)
{
    (void)node;
    contents_dir_close(lister->dir);
    free(lister->path);
    free(lister);
}

static void live_tell_refused(struct node *node, const char *name)
{
    (void)name;
    struct live_volume *volume = ((struct live *)node)->volume;
    tree_tell_refused_below(volume->tree, volume->name, "data", &volume->told_refused_s,
                            "read-only: containers change it, and archives put into restore/");
}

static const struct node_ops live_ops = {
    .free = live_free,
    .getattr = live_getattr,
    .peek = live_peek,
    .lookup = live_lookup,
    .list_open = live_list_open,
    .list_next = live_list_next,
    .list_close = live_list_close,
    .open = live_open,
    .read = live_read,
    .read_whole = live_read_whole,
    .seek = live_seek,
    .release = live_release,
    .readlink = live_readlink,
    .get_xattr = live_get_xattr,
    .list_xattrs = live_list_xattrs,
    .refresh = live_refresh,
    .refuse_change = EROFS,
    .tell_refused = live_tell_refused,
};

struct node *node_live_new(struct tree *tree, const char *name, uint64_t id)
{
    struct live_volume *volume = calloc(1, sizeof(*volume));
    if (!volume || !(volume->name = strdup(name))) {
        free(volume);
        return NULL;
    }
    atomic_init(&volume->refs, 1);
    (void)pthread_mutex_init(&volume->lock, NULL);
    volume->tree = tree;
    volume->id = id;
    if (volumes_way(tree->volumes, name) != VOLUMES_ACCESS_LOCAL)
        volume->waits = NODE_WAITS_GETATTR | NODE_WAITS_LOOKUP | NODE_WAITS_LIST | NODE_WAITS_OPEN |
                        NODE_WAITS_READ;
    struct live *live = live_new(volume, strdup(""), INO_DATA(id));
    volume_unref(volume);
    if (!live)
        return NULL;
    live->is_root = true;
    return &live->node;
}
