/* SPDX-License-Identifier: MIT */
/*
 * browse/: kept snapshots, opened as directories.
 *
 * What is in one never changes, so the kernel may keep all it was told of it: names,
 * attributes, pages.  A node knows its entry's number in the index and its
 * attributes; the rest is asked of the index when it is wanted.
 */
#include "fs/tree.h"

#include <stdatomic.h>
#include <string.h>

/* Entries that a directory hands out at once. */
#define LIST_COUNT 256
/* Files up to this go to the kernel whole when they are first opened. */
#define SMALL_BYTES ((uint64_t)64 * 1024)

/* Snapshots that are held open for nodes alone, of which the kernel may know any number;
 * what is read or listed holds its own. */
#define OPEN_SNAPSHOTS 64

/* Those that hold one, used last first. */
struct openings {
    pthread_mutex_t lock;
    struct opening *first, *last;
    unsigned count;
};

/* What all nodes of one snapshot share. */
struct opening {
    atomic_int refs;
    struct tree *tree;
    uint64_t file; /* a number that stands for the archive's file */
    char *volume;
    pthread_mutex_t lock;
    char *name;       /* which it has now, as far as is known */
    atomic_bool told; /* that it is damaged */
    _Atomic int64_t told_refused_s;

    /* Under the lock of tree->openings: */
    struct snapshot *snapshot; /* NULL: not open, and in no list */
    struct opening *before, *after;
};

struct entry {
    struct node node;
    struct opening *opening;
    uint64_t id;
    uint64_t target;
    struct file_stat stat; /* of the root: only once it was asked */
    struct timespec mtime; /* of the root, until then */
    atomic_bool prefilled;
};

struct handle {
    struct snapshot *snapshot;
    struct snapshot_file file;
};

struct lister {
    struct snapshot *snapshot;
    char *after; /* the last name given; NULL: none yet */
    bool at_end;
};

static const struct node_ops entry_ops;

/* ---- the snapshot ------------------------------------------------------------------ */

struct openings *openings_new(void)
{
    struct openings *openings = calloc(1, sizeof(*openings));
    if (openings)
        (void)pthread_mutex_init(&openings->lock, NULL);
    return openings;
}

void openings_free(struct openings *openings)
{
    if (!openings)
        return;
    (void)pthread_mutex_destroy(&openings->lock);
    free(openings);
}

/* With the lock, like the next two. */
static void link_first(struct openings *openings, struct opening *opening)
{
    opening->before = NULL;
    opening->after = openings->first;
    *(openings->first ? &openings->first->before : &openings->last) = opening;
    openings->first = opening;
    openings->count++;
}

static void unlink_from(struct openings *openings, struct opening *opening)
{
    *(opening->before ? &opening->before->after : &openings->first) = opening->after;
    *(opening->after ? &opening->after->before : &openings->last) = opening->before;
    openings->count--;
}

/* Its snapshot, which it holds no longer; NULL: it held none. */
static struct snapshot *take_snapshot(struct openings *openings, struct opening *opening)
{
    if (opening->snapshot)
        unlink_from(openings, opening);
    return take(opening->snapshot);
}

static struct opening *opening_ref(struct opening *opening)
{
    atomic_fetch_add(&opening->refs, 1);
    return opening;
}

/* Of one opening of that file; false: there is none. */
static bool forget_one(struct openings *openings, uint64_t file)
{
    struct snapshot *snapshot;
    {
        scoped_lock(&openings->lock);
        struct opening *at = openings->first;
        while (at && at->file != file)
            at = at->after;
        snapshot = at ? take_snapshot(openings, at) : NULL;
    }
    snapshot_unref(snapshot);
    return snapshot;
}

void openings_forget(struct openings *openings, uint64_t file)
{
    while (forget_one(openings, file))
        ;
}

/* Lets go of the snapshot. */
static void drop(struct opening *opening)
{
    struct openings *openings = opening->tree->openings;
    struct snapshot *snapshot;
    {
        scoped_lock(&openings->lock);
        snapshot = take_snapshot(openings, opening);
    }
    snapshot_unref(snapshot);
}

static void opening_unref(struct opening *opening)
{
    if (!opening || atomic_fetch_sub(&opening->refs, 1) != 1)
        return;
    drop(opening);
    (void)pthread_mutex_destroy(&opening->lock);
    free(opening->volume);
    free(opening->name);
    free(opening);
}

static struct opening *opening_new(struct tree *tree, const char *volume, const char *name,
                                   uint64_t file)
{
    struct opening *opening = calloc(1, sizeof(*opening));
    if (!opening)
        return NULL;
    atomic_init(&opening->refs, 1);
    (void)pthread_mutex_init(&opening->lock, NULL);
    opening->tree = tree;
    opening->file = file;
    opening->volume = strdup(volume);
    opening->name = strdup(name);
    if (opening->volume && opening->name)
        return opening;
    opening_unref(opening);
    return NULL;
}

static char *name_of(struct opening *opening)
{
    scoped_lock(&opening->lock);
    return strdup(opening->name);
}

/*
 * Told once for a snapshot: the kernel asks again for what it did not get.  -EBADMSG is
 * the index: the next who asks has it made again.
 */
static int tell(struct opening *opening, int r, const struct fail *why)
{
    struct tree *tree = opening->tree;
    cleanup_free char *name = name_of(opening);
    if (!name)
        return -ENOMEM;
    if (r != -EINTR && r != -ENOENT && !atomic_exchange(&opening->told, true))
        log_event(tree->log, "%s/browse/%s: %s", opening->volume, name, fail_text(why, r));
    if (r != -EBADMSG)
        return r;
    struct stat archive; /* that name may be another's by now */
    if (store_stat(kept_store(tree->kept), opening->volume, name, &archive) == 0 &&
        tree_hash_stat(&archive) == opening->file)
        kept_drop_index(tree->kept, opening->volume, name);
    openings_forget(tree->openings, opening->file);
    return -EIO;
}

/* A reference to what it holds, or NULL. */
static struct snapshot *held(struct opening *opening)
{
    struct openings *openings = opening->tree->openings;
    scoped_lock(&openings->lock);
    if (!opening->snapshot)
        return NULL;
    if (openings->first != opening) {
        unlink_from(openings, opening);
        link_first(openings, opening);
    }
    return snapshot_ref(opening->snapshot);
}

/* Holds a reference of its own, in place of whoever has not used his for longest. */
static void hold(struct opening *opening, struct snapshot *snapshot)
{
    struct openings *openings = opening->tree->openings;
    struct snapshot *gone = NULL;
    {
        scoped_lock(&openings->lock);
        if (opening->snapshot) /* another thread was as quick */
            return;
        opening->snapshot = snapshot_ref(snapshot);
        link_first(openings, opening);
        if (openings->count > OPEN_SNAPSHOTS)
            gone = take_snapshot(openings, openings->last);
    }
    snapshot_unref(gone);
}

/* Whether it is of the opening's file: another may have the name now. */
static bool is_of(const struct opening *opening, const struct snapshot *snapshot)
{
    struct stat archive;
    return fstat(snapshot_fd(snapshot), &archive) == 0 && tree_hash_stat(&archive) == opening->file;
}

/* Of one that was removed while it was opened, which openings_forget did not see. */
static bool is_removed(const struct snapshot *snapshot)
{
    struct stat archive;
    return fstat(snapshot_fd(snapshot), &archive) == 0 && archive.st_nlink == 0;
}

/* The snapshot; a reference.  -ESTALE: it has gone, or has another name that nobody has
 * looked up yet. */
static int reach(struct opening *opening, struct cancel *cancel, struct snapshot **ret_snapshot)
{
    struct snapshot *snapshot = held(opening);
    if (snapshot) {
        *ret_snapshot = snapshot;
        return 0;
    }
    cleanup_free char *name = name_of(opening);
    if (!name)
        return -ENOMEM;
    struct fail why = FAIL_INIT;
    int r = kept_open(opening->tree->kept, opening->volume, name, cancel, &snapshot, &why);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : tell(opening, r == -EBADMSG ? -EIO : r, &why);
    if (!is_of(opening, snapshot)) {
        snapshot_unref(snapshot);
        return -ESTALE;
    }
    hold(opening, snapshot);
    if (is_removed(snapshot))
        drop(opening);
    *ret_snapshot = snapshot;
    return 0;
}

static void opening_swap_names(struct opening *one, struct opening *other)
{
    char *name;
    {
        scoped_lock(&other->lock);
        name = take(other->name);
    }
    scoped_lock(&one->lock);
    other->name = one->name;
    one->name = name;
}

/* ---- nodes ---------------------------------------------------------------------------- */

/* Snapshots of the same contents have numbers of their own as well: a directory can be
 * in one place only. */
static uint64_t number_of(const struct opening *opening, const struct snapshot *snapshot,
                          uint64_t target)
{
    return INO_BROWSE | tree_hash(tree_hash(opening->file, snapshot_id(snapshot)), target);
}

static void entry_free(struct node *node)
{
    opening_unref(((struct entry *)node)->opening);
    free(node);
}

static struct entry *entry_new(struct opening *opening, const struct index_entry *from,
                               const struct snapshot *snapshot)
{
    struct entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    node_init(&entry->node, &entry_ops, number_of(opening, snapshot, from->target));
    entry->opening = opening_ref(opening);
    entry->id = from->id;
    entry->target = from->target;
    entry->stat = from->file.stat;
    if (S_ISLNK(entry->stat.mode)) /* which archives do not tell */
        entry->stat.size_bytes = strlen(from->file.link_target);
    return entry;
}

/* It may have been renamed. */
static void entry_refresh(struct node *known, struct node *fresh)
{
    const struct entry *entry = (const struct entry *)known;
    if (entry->id == 0)
        opening_swap_names(entry->opening, ((const struct entry *)fresh)->opening);
}

static void fill_stat(const struct entry *entry, struct stat *st)
{
    tree_fill_stat(&entry->stat, st);
    st->st_ino = entry->node.ino;
    st->st_ctim = st->st_atim = st->st_mtim;
}

/* ---- asking the index ------------------------------------------------------------------- */

struct question {
    struct entry *entry;
    struct snapshot *snapshot;
    const char *name; /* of an attribute */
    struct buf *out;
    struct node *child;
    struct handle *handle;
    struct fail why;
};

static int ask(struct entry *entry, uint64_t id, index_fn *fn, struct question *question,
               const struct request *request)
{
    struct snapshot *snapshot cleanup_snapshot = NULL;
    int r = reach(entry->opening, request->cancel, &snapshot);
    if (r < 0)
        return r;
    question->entry = entry;
    question->snapshot = snapshot;
    r = index_get(snapshot_index(snapshot), id, fn, question, &question->why);
    return r == -EBADMSG || r == -EIO ? tell(entry->opening, r, &question->why) : r;
}

static int take_stat(void *data, const struct index_entry *found)
{
    struct question *question = data;
    question->entry->stat = found->file.stat;
    return 0;
}

static int entry_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                         double *ret_seconds)
{
    struct entry *entry = (struct entry *)node;
    if (entry->id == 0) { /* not known before the snapshot is opened */
        struct question question = {0};
        int r = ask(entry, 0, take_stat, &question, request);
        if (r < 0)
            return r;
    }
    fill_stat(entry, ret_stat);
    *ret_seconds = NODE_IMMUTABLE_SECONDS;
    return 0;
}

static void entry_peek(struct node *node, struct stat *ret_stat)
{
    node_stat_made_up(ret_stat, S_IFDIR | 0755, 0, &((struct entry *)node)->mtime);
}

static int take_child(void *data, const struct index_entry *found)
{
    struct question *question = data;
    struct entry *child = entry_new(question->entry->opening, found, question->snapshot);
    if (!child)
        return -ENOMEM;
    question->child = &child->node;
    return 0;
}

static int entry_lookup(struct node *dir, const struct request *request, const char *name,
                        struct node **ret_child, double *ret_seconds)
{
    struct entry *entry = (struct entry *)dir;
    struct snapshot *snapshot cleanup_snapshot = NULL;
    int r = reach(entry->opening, request->cancel, &snapshot);
    if (r < 0)
        return r;
    struct question question = {.entry = entry, .snapshot = snapshot};
    r = index_find(snapshot_index(snapshot), entry->id, name, take_child, &question, &question.why);
    if (r < 0)
        return tell(entry->opening, r, &question.why);
    *ret_child = question.child;
    *ret_seconds = NODE_IMMUTABLE_SECONDS;
    return 0;
}

static int take_link(void *data, const struct index_entry *found)
{
    struct question *question = data;
    if (!S_ISLNK(found->file.stat.mode))
        return -EINVAL;
    return buf_add_string(question->out, found->file.link_target);
}

static int entry_readlink(struct node *node, const struct request *request, struct buf *out)
{
    struct question question = {.out = out};
    struct entry *entry = (struct entry *)node;
    return ask(entry, entry->id, take_link, &question, request);
}

static int take_xattr(void *data, const struct index_entry *found)
{
    struct question *question = data;
    size_t position = 0, value_bytes;
    const char *name;
    const void *value;
    while (file_xattr_next(&found->file, &position, &name, &value, &value_bytes))
        if (strcmp(name, question->name) == 0)
            return buf_add(question->out, value, value_bytes);
    return -ENODATA;
}

static int entry_get_xattr(struct node *node, const struct request *request, const char *name,
                           struct buf *out)
{
    struct question question = {.name = name, .out = out};
    struct entry *entry = (struct entry *)node;
    return ask(entry, entry->target, take_xattr, &question, request);
}

static int take_xattr_names(void *data, const struct index_entry *found)
{
    struct question *question = data;
    size_t position = 0, value_bytes;
    const char *name;
    const void *value;
    int r = 0;
    while (r == 0 && file_xattr_next(&found->file, &position, &name, &value, &value_bytes))
        r = buf_add(question->out, name, strlen(name) + 1);
    return r;
}

static int entry_list_xattrs(struct node *node, const struct request *request, struct buf *out)
{
    struct question question = {.out = out};
    struct entry *entry = (struct entry *)node;
    return ask(entry, entry->target, take_xattr_names, &question, request);
}

/* ---- reading -------------------------------------------------------------------------------- */

static int take_file(void *data, const struct index_entry *found)
{
    struct question *question = data;
    int r = snapshot_file_open(question->snapshot, found, &question->handle->file, &question->why);
    if (r == 0)
        question->handle->snapshot = snapshot_ref(question->snapshot);
    return r;
}

static int entry_open(struct node *node, const struct request *request, int flags,
                      struct opened *ret_opened)
{
    (void)flags;
    struct entry *entry = (struct entry *)node;
    struct handle *handle = calloc(1, sizeof(*handle));
    if (!handle)
        return -ENOMEM;
    struct question question = {.handle = handle};
    int r = ask(entry, entry->target, take_file, &question, request);
    if (r < 0) {
        free(handle);
        return r;
    }
    bool is_new = entry->stat.size_bytes > 0 && entry->stat.size_bytes <= SMALL_BYTES &&
                  !atomic_exchange(&entry->prefilled, true);
    *ret_opened =
        (struct opened){.handle = handle, .caching = is_new ? OPEN_PREFILL : OPEN_KEEP_PAGES};
    return 0;
}

static ssize_t entry_read(struct node *node, struct handle *handle, const struct request *request,
                          void *data, size_t len, uint64_t offset)
{
    (void)request;
    struct opening *opening = ((struct entry *)node)->opening;
    struct fail why = FAIL_INIT;
    ssize_t n = snapshot_read(handle->snapshot, &handle->file, data, len, offset, &why);
    return n < 0 ? tell(opening, (int)n, &why) : n;
}

static ssize_t entry_read_whole(struct node *node, struct handle *handle,
                                const struct request *request, char **ret_data)
{
    size_t bytes = (size_t)((struct entry *)node)->stat.size_bytes;
    cleanup_free char *data = malloc(bytes);
    if (!data)
        return -ENOMEM;
    ssize_t n = entry_read(node, handle, request, data, bytes, 0);
    if (n > 0)
        *ret_data = take(data);
    return n;
}

static int64_t entry_seek(struct node *node, struct handle *handle, const struct request *request,
                          uint64_t offset, int whence)
{
    (void)node, (void)request;
    return snapshot_seek(&handle->file, offset, whence);
}

static void entry_release(struct node *node, struct handle *handle)
{
    (void)node;
    snapshot_file_done(&handle->file);
    snapshot_unref(handle->snapshot);
    free(handle);
}

/* ---- listing --------------------------------------------------------------------------------- */

static int entry_list_open(struct node *node, const struct request *request,
                           struct lister **ret_lister)
{
    struct entry *entry = (struct entry *)node;
    struct snapshot *snapshot;
    int r = reach(entry->opening, request->cancel, &snapshot);
    if (r < 0)
        return r;
    struct lister *lister = calloc(1, sizeof(*lister));
    if (!lister) {
        snapshot_unref(snapshot);
        return -ENOMEM;
    }
    lister->snapshot = snapshot;
    *ret_lister = lister;
    return 0;
}

struct emission {
    struct entry *dir;
    struct lister *lister;
    node_emit_child_fn *emit;
    void *data;
};

static int emit_entry(void *data, const struct index_entry *found)
{
    struct emission *emission = data;
    struct entry *child = entry_new(emission->dir->opening, found, emission->lister->snapshot);
    char *after = strdup(found->file.name);
    if (!child || !after) {
        if (child)
            node_unref(&child->node);
        free(after);
        return -ENOMEM;
    }
    free(emission->lister->after);
    emission->lister->after = after;
    struct stat st = {.st_blksize = NODE_BLOCK_BYTES};
    fill_stat(child, &st);
    return emission->emit(emission->data, found->file.name, &child->node, &st,
                          NODE_IMMUTABLE_SECONDS);
}

static int entry_list_next(struct node *node, struct lister *lister, const struct request *request,
                           node_emit_child_fn *emit, void *data)
{
    (void)request;
    struct entry *entry = (struct entry *)node;
    struct emission emission = {.dir = entry, .lister = lister, .emit = emit, .data = data};
    if (lister->at_end)
        return 0;
    struct fail why = FAIL_INIT;
    cleanup_free char *after = lister->after ? strdup(lister->after) : NULL;
    if (lister->after && !after)
        return -ENOMEM;
    int n = index_list(snapshot_index(lister->snapshot), entry->id, after, LIST_COUNT, emit_entry,
                       &emission, &why);
    if (n < 0)
        return tell(entry->opening, n, &why);
    lister->at_end = n < LIST_COUNT;
    return n > 0;
}

static void entry_list_close(struct node *node, struct lister *lister)
{
    (void)node;
    snapshot_unref(lister->snapshot);
    free(lister->after);
    free(lister);
}

static void entry_tell_refused(struct node *node, const char *name)
{
    (void)name;
    struct opening *opening = ((struct entry *)node)->opening;
    tree_tell_refused_below(
        opening->tree, opening->volume, "browse", &opening->told_refused_s,
        "what a snapshot holds never changes; rmdir of its name removes all of it");
}

static const struct node_ops entry_ops = {
    .free = entry_free,
    .getattr = entry_getattr,
    .peek = entry_peek,
    .lookup = entry_lookup,
    .list_open = entry_list_open,
    .list_next = entry_list_next,
    .list_close = entry_list_close,
    .open = entry_open,
    .read = entry_read,
    .read_whole = entry_read_whole,
    .seek = entry_seek,
    .release = entry_release,
    .readlink = entry_readlink,
    .get_xattr = entry_get_xattr,
    .list_xattrs = entry_list_xattrs,
    .refuse_change = EROFS,
    .tell_refused = entry_tell_refused,
    .refresh = entry_refresh,
};

/* The root of a snapshot, which is not opened yet. */
static int root_new(struct tree *tree, const char *volume, const char *name,
                    struct node **ret_child)
{
    struct stat archive;
    int r = store_stat(kept_store(tree->kept), volume, name, &archive);
    if (r < 0)
        return r;
    struct entry *entry = calloc(1, sizeof(*entry));
    uint64_t file = tree_hash_stat(&archive);
    struct opening *opening = entry ? opening_new(tree, volume, name, file) : NULL;
    if (!opening) {
        free(entry);
        return -ENOMEM;
    }
    node_init(&entry->node, &entry_ops, INO_BROWSE | file);
    entry->node.waits = NODE_WAITS_GETATTR | NODE_WAITS_LOOKUP | NODE_WAITS_LIST;
    entry->opening = opening;
    entry->mtime = archive.st_mtim;
    *ret_child = &entry->node;
    return 0;
}

/* ---- browse/ itself ------------------------------------------------------------------------ */

struct browse {
    struct node node;
    struct tree *tree;
    char *volume;
};

static void browse_free(struct node *node)
{
    free(((struct browse *)node)->volume);
    free(node);
}

static int browse_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                          double *ret_seconds)
{
    (void)request;
    tree_stat_dir(((struct browse *)node)->tree, 0700, ret_stat, ret_seconds);
    return 0;
}

static int browse_lookup(struct node *node, const struct request *request, const char *name,
                         struct node **ret_child, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    const struct browse *dir = (const struct browse *)node;
    return store_is_name(name) ? root_new(dir->tree, dir->volume, name, ret_child) : -ENOENT;
}

struct naming {
    node_emit_fn *emit;
    void *data;
};

static int emit_name(void *data, const char *name)
{
    const struct naming *naming = data;
    return naming->emit(naming->data, name, INO_BROWSE, S_IFDIR);
}

static int browse_list(struct node *node, node_emit_fn *emit, void *data)
{
    const struct browse *dir = (const struct browse *)node;
    struct naming naming = {.emit = emit, .data = data};
    return store_list(kept_store(dir->tree->kept), dir->volume, emit_name, &naming, NULL);
}

static int browse_mkdir(struct node *node, const struct request *request, const char *name,
                        struct node **ret_child)
{
    const struct browse *dir = (const struct browse *)node;
    struct fail why = FAIL_INIT;
    int r = kept_take(dir->tree->kept, dir->volume, name, request->cancel, &why);
    if (r < 0) {
        log_event(dir->tree->log, "%s/browse/%s: not taken: %s", dir->volume, name,
                  fail_text(&why, r));
        return r;
    }
    return root_new(dir->tree, dir->volume, name, ret_child);
}

static int browse_rmdir(struct node *node, const char *name)
{
    const struct browse *dir = (const struct browse *)node;
    struct fail why = FAIL_INIT;
    int r = tree_remove_kept(dir->tree, dir->volume, name, &why);
    log_event(dir->tree->log, "%s/browse/%s: %s", dir->volume, name,
              r < 0 ? fail_text(&why, r) : "removed");
    return r;
}

static int browse_rename(struct node *node, const struct request *request, const char *from,
                         const char *to, bool no_replace)
{
    (void)request, (void)no_replace; /* nothing is ever replaced */
    const struct browse *dir = (const struct browse *)node;
    struct fail why = FAIL_INIT;
    int r = kept_rename(dir->tree->kept, dir->volume, from, to, &why);
    if (r < 0)
        log_event(dir->tree->log, "%s/browse/%s: not renamed: %s", dir->volume, from,
                  fail_text(&why, r));
    return r;
}

static void browse_tell_refused(struct node *node, const char *name)
{
    const struct browse *dir = (const struct browse *)node;
    tree_tell_refused(dir->tree, dir->volume, "browse", name,
                      "mkdir takes a snapshot, rmdir removes one, mv renames it");
}

static const struct node_ops browse_ops = {
    .waits = NODE_WAITS_MKDIR,
    .free = browse_free,
    .getattr = browse_getattr,
    .lookup = browse_lookup,
    .list = browse_list,
    .mkdir = browse_mkdir,
    .rmdir = browse_rmdir,
    .rename = browse_rename,
    .refuse_create = EPERM,
    .tell_refused = browse_tell_refused,
};

struct node *node_browse_new(struct tree *tree, const char *volume, uint64_t id)
{
    struct browse *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->volume = strdup(volume))) {
        free(dir);
        return NULL;
    }
    node_init(&dir->node, &browse_ops, INO_BROWSE_DIR(id));
    dir->tree = tree;
    return &dir->node;
}
