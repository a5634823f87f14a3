/* SPDX-License-Identifier: MIT */
/*
 * An entry is a slot of 80 bytes in one array, its name in one arena, and where
 * it needs more an allocation of its own.  Paths are put together from the
 * parents' names, and headers from all that, whenever they are asked for: an
 * entry is measured by writing its headers from what was stored, so that they
 * are always as long as they were said to be.
 */
#include "tar/layout.h"

#include "tar/header.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

/* uthash's own functions go byte by byte, and its default is not clean. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) (hash) = hash_first((const void *)(key))
#include <uthash.h>

#define NONE UINT32_MAX
/* off_t has 63 bits. */
#define ARCHIVE_MAX_BYTES ((uint64_t)INT64_MAX)

struct slot {
    uint64_t offset;
    uint64_t size_bytes; /* 0 where the entry has no data of its own */
    uint64_t ino;
    int64_t mtime_s;
    int64_t ctime_s;
    uint32_t mtime_ns;
    uint32_t ctime_ns;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t parent; /* index; the root is its own */
    uint32_t name;   /* offset in names */
    uint32_t extra;  /* index in extras, or NONE */
    uint32_t header_blocks;
};
/* The array grows by half. */
_Static_assert(sizeof(struct slot) * 3 / 2 <= LAYOUT_ENTRY_BYTES, "a slot is small");

/* A run of whole blocks of a sparse file; the last one may end with the file. */
struct run {
    uint64_t offset;     /* in the file */
    uint64_t stored_end; /* bytes of the runs up to and with this one */
};

/* What few entries have; one allocation with all it points to. */
struct extra {
    uint64_t dev;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint32_t link_to; /* index, or NONE */
    bool is_sparse;
    uint64_t map_bytes; /* of the sparse map, whole blocks */
    char *link_target;
    struct tar_xattr *xattrs;
    size_t xattr_count;
    struct run *runs;
    size_t run_count;
};

/* The first name of a file that has several. */
struct first {
    UT_hash_handle hh;
    struct first_key {
        uint64_t dev;
        uint64_t ino;
    } key;
    uint32_t index;
};

static unsigned hash_first(const struct first_key *key)
{
    uint64_t hash = (key->ino + key->dev * 31) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(hash >> 32);
}

struct layout {
    struct slot *slots;
    size_t count;
    size_t room;
    char *names; /* each with its NUL */
    size_t names_bytes;
    size_t names_room;
    struct extra **extras;
    size_t extra_count;
    size_t extra_room;
    uint64_t dev; /* the root's */
    uint64_t end; /* of the last slot */
    int64_t newest_s;
    uint32_t newest_ns;
    /* Only while it is filled: */
    struct first *firsts;
    struct buf headers;   /* of the entry being measured */
    struct buf directory; /* path of the directory added last */
    size_t path_bytes;    /* how much of it is where the last entry was added */
    uint32_t parent;      /* the index of that */
    bool finished;
};

struct layout *layout_new(void)
{
    struct layout *layout = calloc(1, sizeof(*layout));
    if (!layout)
        return NULL;
    buf_init(&layout->headers, LAYOUT_HEADER_MAX_BYTES);
    buf_init(&layout->directory, LAYOUT_HEADER_MAX_BYTES);
    return layout;
}

/* Frees what is needed only while it is filled. */
static void drop_scaffold(struct layout *layout)
{
    struct first *first = layout->firsts;
    HASH_CLEAR(hh, layout->firsts);
    while (first) {
        struct first *next = first->hh.next;
        free(first);
        first = next;
    }
    buf_done(&layout->headers);
    buf_done(&layout->directory);
}

void layout_free(struct layout *layout)
{
    if (!layout)
        return;
    drop_scaffold(layout);
    for (size_t i = 0; i < layout->extra_count; i++)
        free(layout->extras[i]);
    free(layout->extras);
    free(layout->names);
    free(layout->slots);
    free(layout);
}

static const char *name_of(const struct layout *layout, uint32_t index)
{
    return layout->names + layout->slots[index].name;
}

static const struct extra *extra_of(const struct layout *layout, const struct slot *slot)
{
    return slot->extra == NONE ? NULL : layout->extras[slot->extra];
}

/* ---- sparse files ------------------------------------------------------------- */

static uint64_t whole_blocks(uint64_t bytes)
{
    return bytes + tar_padding_bytes(bytes);
}

/*
 * The map: the number of runs, then offset and length of each, in decimal lines
 * (GNU tar manual, "PAX Format, Versions 1.0").  A file that ends with a hole
 * has a run of no length at its end.  This is the part of it that is wanted.
 */
struct map_window {
    uint64_t at; /* bytes of the map so far */
    uint64_t from;
    uint64_t to;
    struct buf *out;
};

static int map_line(struct map_window *window, uint64_t number)
{
    char line[24]; /* maps may have millions: no printf */
    char *text = line + sizeof(line) - 1;
    *text = '\n';
    do
        *--text = (char)('0' + number % 10);
    while (number /= 10);
    uint64_t len = (uint64_t)(line + sizeof(line) - text);
    uint64_t at = window->at;
    window->at += len;
    if (window->at <= window->from || at >= window->to)
        return 0;
    uint64_t skip = window->from > at ? window->from - at : 0;
    uint64_t end = window->to - at < len ? window->to - at : len;
    return buf_add(window->out, text + skip, end - skip);
}

static int map_lines(struct map_window *window, const struct extra *extra, uint64_t size)
{
    uint64_t end = 0;
    uint64_t stored = 0;
    for (size_t i = 0; i < extra->run_count && window->at < window->to; i++) {
        uint64_t bytes = extra->runs[i].stored_end - stored;
        int r = map_line(window, extra->runs[i].offset);
        if (r == 0)
            r = map_line(window, bytes);
        if (r < 0)
            return r;
        stored = extra->runs[i].stored_end;
        end = extra->runs[i].offset + bytes;
    }
    if (end == size || window->at >= window->to)
        return 0;
    int r = map_line(window, size);
    return r < 0 ? r : map_line(window, 0);
}

static bool ends_with_hole(const struct extra *extra, uint64_t size)
{
    if (extra->run_count == 0)
        return true;
    const struct run *last = &extra->runs[extra->run_count - 1];
    uint64_t before = extra->run_count > 1 ? last[-1].stored_end : 0;
    return last->offset + (last->stored_end - before) < size;
}

static int map_write(struct map_window *window, const struct extra *extra, uint64_t size)
{
    int r = map_line(window, extra->run_count + ends_with_hole(extra, size));
    return r < 0 ? r : map_lines(window, extra, size);
}

static uint64_t map_bytes(const struct extra *extra, uint64_t size)
{
    struct map_window window = {.from = UINT64_MAX, .to = UINT64_MAX};
    int r = map_write(&window, extra, size);
    assert(r == 0);
    (void)r;
    return whole_blocks(window.at);
}

/* Widens an extent to whole blocks; it must lie in the file and after `last_end`. */
static int widen(const struct tar_extent *extent, uint64_t size, uint64_t last_end,
                 struct tar_extent *ret)
{
    if (extent->offset < last_end || extent->offset > size || extent->bytes > size - extent->offset)
        return -EINVAL;
    uint64_t from = extent->offset - extent->offset % TAR_BLOCK_BYTES;
    uint64_t to = whole_blocks(extent->offset + extent->bytes);
    *ret = (struct tar_extent){.offset = from, .bytes = (to < size ? to : size) - from};
    return 0;
}

static void add_run(struct extra *extra, struct tar_extent piece, uint64_t *end)
{
    uint64_t to = piece.offset + piece.bytes;
    uint64_t stored = extra->run_count ? extra->runs[extra->run_count - 1].stored_end : 0;
    if (extra->run_count > 0 && piece.offset <= *end) {
        if (to > *end)
            extra->runs[extra->run_count - 1].stored_end += to - *end;
    } else {
        extra->runs[extra->run_count++] = (struct run){piece.offset, stored + piece.bytes};
    }
    *end = to > *end ? to : *end;
}

/* Fills in the runs; where they leave no hole, the file is not sparse. */
static int add_runs(struct extra *extra, const struct tar_entry *entry)
{
    uint64_t raw_end = 0;
    uint64_t end = 0;
    for (size_t i = 0; i < entry->extent_count; i++) {
        struct tar_extent piece;
        int r = widen(&entry->extents[i], entry->size_bytes, raw_end, &piece);
        if (r < 0)
            return r;
        raw_end = entry->extents[i].offset + entry->extents[i].bytes;
        if (entry->extents[i].bytes > 0)
            add_run(extra, piece, &end);
    }
    uint64_t stored = extra->run_count ? extra->runs[extra->run_count - 1].stored_end : 0;
    extra->is_sparse = stored < entry->size_bytes;
    if (extra->is_sparse)
        extra->map_bytes = map_bytes(extra, entry->size_bytes);
    else
        extra->run_count = 0;
    return 0;
}

/* ---- what few entries have ---------------------------------------------------------- */

static bool has_extents(const struct tar_entry *entry, uint32_t link_to)
{
    return link_to == NONE && S_ISREG(entry->mode) && entry->extents && entry->size_bytes > 0;
}

static bool needs_extra(const struct layout *layout, const struct tar_entry *entry, uint64_t dev,
                        uint32_t link_to)
{
    return link_to != NONE || (layout->count > 0 && dev != layout->dev) ||
           (S_ISLNK(entry->mode) && entry->link_target) || S_ISCHR(entry->mode) ||
           S_ISBLK(entry->mode) || entry->xattr_count > 0 || has_extents(entry, link_to);
}

/* Copies to *room and moves on. */
static void *place(char **room, const void *data, size_t bytes)
{
    void *at = *room;
    if (bytes)
        memcpy(at, data, bytes);
    *room += bytes;
    return at;
}

static void place_xattrs(struct extra *extra, char **room, const struct tar_entry *entry)
{
    extra->xattr_count = entry->xattr_count;
    extra->xattrs = place(room, entry->xattrs, entry->xattr_count * sizeof(*entry->xattrs));
    for (size_t i = 0; i < extra->xattr_count; i++) {
        struct tar_xattr *xattr = &extra->xattrs[i];
        xattr->name = place(room, xattr->name, strlen(xattr->name) + 1);
        xattr->value = place(room, xattr->value, xattr->value_bytes);
    }
}

/* All of it is in memory already: the sum cannot overflow. */
static size_t extra_bytes(const struct tar_entry *entry, uint32_t link_to)
{
    size_t bytes = sizeof(struct extra);
    if (link_to != NONE)
        return bytes;
    if (has_extents(entry, link_to))
        bytes += entry->extent_count * sizeof(struct run);
    if (S_ISLNK(entry->mode) && entry->link_target)
        bytes += strlen(entry->link_target) + 1;
    for (size_t i = 0; i < entry->xattr_count; i++)
        bytes += sizeof(struct tar_xattr) + strlen(entry->xattrs[i].name) + 1 +
                 entry->xattrs[i].value_bytes;
    return bytes;
}

static int extra_new(const struct tar_entry *entry, uint64_t dev, uint32_t link_to,
                     struct extra **ret_extra)
{
    cleanup_free struct extra *extra = malloc(extra_bytes(entry, link_to));
    if (!extra)
        return -ENOMEM;
    *extra = (struct extra){.dev = dev, .link_to = link_to};
    char *room = (char *)(extra + 1);
    int r = 0;
    if (has_extents(entry, link_to)) {
        extra->runs = (struct run *)(void *)room;
        room += entry->extent_count * sizeof(struct run);
        r = add_runs(extra, entry);
    }
    if (link_to == NONE) {
        extra->dev_major = entry->dev_major;
        extra->dev_minor = entry->dev_minor;
        place_xattrs(extra, &room, entry);
        if (S_ISLNK(entry->mode) && entry->link_target)
            extra->link_target = place(&room, entry->link_target, strlen(entry->link_target) + 1);
    }
    if (r == 0)
        *ret_extra = take(extra);
    return r;
}

/* ---- names and headers ------------------------------------------------------------- */

int layout_path(const struct layout *layout, size_t index, struct buf *out)
{
    size_t len = 0;
    for (uint32_t i = (uint32_t)index; i != 0; i = layout->slots[i].parent)
        len += strlen(name_of(layout, i)) + (layout->slots[i].parent != 0);
    int r = buf_add_zeros(out, len);
    if (r < 0)
        return r;
    char *at = out->data + out->len;
    for (uint32_t i = (uint32_t)index; i != 0; i = layout->slots[i].parent) {
        const char *name = name_of(layout, i);
        len = strlen(name);
        at -= len;
        memcpy(at, name, len);
        if (layout->slots[i].parent != 0)
            *--at = '/';
    }
    return 0;
}

static uint64_t data_bytes(const struct layout *layout, const struct slot *slot)
{
    const struct extra *extra = extra_of(layout, slot);
    if (!extra || !extra->is_sparse)
        return slot->size_bytes;
    return extra->map_bytes + (extra->run_count ? extra->runs[extra->run_count - 1].stored_end : 0);
}

/* The entry as tar/header.h wants it; it points into layout, path and target. */
static int entry_of(const struct layout *layout, size_t index, struct buf *path, struct buf *target,
                    struct tar_entry *ret)
{
    static struct tar_extent is_sparse; /* tar/header.h wants to know no more */
    const struct slot *slot = &layout->slots[index];
    const struct extra *extra = extra_of(layout, slot);
    int r = layout_path(layout, index, path);
    if (r == 0 && extra && extra->link_to != NONE)
        r = layout_path(layout, extra->link_to, target);
    if (r < 0)
        return r;
    *ret = (struct tar_entry){
        .name = path->data,
        .mode = slot->mode,
        .uid = slot->uid,
        .gid = slot->gid,
        .mtime_s = slot->mtime_s,
        .mtime_ns = slot->mtime_ns,
        .size_bytes = slot->size_bytes,
    };
    if (!extra)
        return 0;
    ret->is_hard_link = extra->link_to != NONE;
    ret->link_target = ret->is_hard_link ? target->data : extra->link_target;
    ret->dev_major = extra->dev_major;
    ret->dev_minor = extra->dev_minor;
    ret->xattrs = extra->xattrs;
    ret->xattr_count = extra->xattr_count;
    ret->extents = extra->is_sparse ? &is_sparse : NULL;
    return 0;
}

int layout_header(const struct layout *layout, size_t index, struct buf *out)
{
    struct buf path cleanup_buf;
    struct buf target cleanup_buf;
    buf_init(&path, LAYOUT_HEADER_MAX_BYTES);
    buf_init(&target, LAYOUT_HEADER_MAX_BYTES);
    struct tar_entry entry;
    int r = entry_of(layout, index, &path, &target, &entry);
    if (r < 0)
        return r;
    return tar_header_write_stored(out, &entry, data_bytes(layout, &layout->slots[index]));
}

int layout_filler(const struct layout *layout, size_t bytes, struct buf *out)
{
    struct buf path cleanup_buf;
    struct buf target cleanup_buf;
    buf_init(&path, LAYOUT_HEADER_MAX_BYTES);
    buf_init(&target, LAYOUT_HEADER_MAX_BYTES);
    struct tar_entry entry;
    int r = entry_of(layout, 0, &path, &target, &entry);
    return r < 0 ? r : tar_header_write_filler(out, &entry, bytes);
}

/* ---- adding -------------------------------------------------------------------- */

/* Where in the tree an entry goes. */
struct position {
    const char *base; /* the last component */
    uint32_t parent;
    size_t path_bytes; /* of the parent */
};

static bool is_component(const char *name)
{
    return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Goes up from where the last entry was added until the path is the parent's. */
static int find_position(const struct layout *layout, const struct tar_entry *entry,
                         struct position *ret)
{
    if (layout->count == 0) {
        *ret = (struct position){.base = entry->name};
        return entry->name[0] || !S_ISDIR(entry->mode) ? -EINVAL : 0;
    }
    const char *slash = strrchr(entry->name, '/');
    size_t wanted = slash ? (size_t)(slash - entry->name) : 0;
    uint32_t parent = layout->parent;
    size_t len = layout->path_bytes;
    while (len > wanted && parent != 0) {
        len -= strlen(name_of(layout, parent));
        parent = layout->slots[parent].parent;
        len -= parent != 0;
    }
    const char *base = slash ? slash + 1 : entry->name;
    if (len != wanted || memcmp(buf_string(&layout->directory), entry->name, len) != 0 ||
        (slash && parent == 0) || !is_component(base))
        return -EINVAL;
    *ret = (struct position){.base = base, .parent = parent, .path_bytes = len};
    return 0;
}

static int check(const struct layout *layout, const struct tar_entry *entry,
                 const struct layout_identity *identity)
{
    if (entry->mtime_ns > 999999999 || identity->ctime_ns > 999999999)
        return -EINVAL;
    if (entry->uid > UINT32_MAX || entry->gid > UINT32_MAX || layout->count >= NONE ||
        entry->size_bytes > ARCHIVE_MAX_BYTES)
        return -EOVERFLOW;
    return 0;
}

/* The index of the file's first name, or NONE. */
static uint32_t find_first(const struct layout *layout, const struct tar_entry *entry,
                           const struct layout_identity *identity)
{
    if (identity->nlink < 2 || S_ISDIR(entry->mode))
        return NONE;
    struct first_key key = {identity->dev, identity->ino};
    struct first *first = NULL;
    HASH_FIND(hh, layout->firsts, &key, sizeof(key), first);
    return first ? first->index : NONE;
}

/* Remembers the entry to be added as the first name of its file. */
static int note_first(struct layout *layout, const struct tar_entry *entry,
                      const struct layout_identity *identity)
{
    if (identity->nlink < 2 || S_ISDIR(entry->mode))
        return 0;
    struct first *first = calloc(1, sizeof(*first));
    if (!first)
        return -ENOMEM;
    first->key = (struct first_key){identity->dev, identity->ino};
    first->index = (uint32_t)layout->count;
    HASH_ADD(hh, layout->firsts, key, sizeof(first->key), first);
    if (first->hh.tbl)
        return 0;
    free(first);
    return -ENOMEM;
}

/* The array with room for `need` items, growing by half; NULL: no memory, it is as it was. */
static void *grow(void *items, size_t *room, size_t need, size_t item_bytes)
{
    if (need <= *room)
        return items;
    size_t more = *room + *room / 2 + 64;
    if (more < need)
        more = need;
    void *grown = reallocarray(items, more, item_bytes);
    if (grown)
        *room = more;
    return grown;
}

static int make_room(struct layout *layout, size_t name_bytes)
{
    if (name_bytes > UINT32_MAX - layout->names_bytes)
        return -EOVERFLOW;
    struct slot *slots =
        grow(layout->slots, &layout->room, layout->count + 1, sizeof(*layout->slots));
    layout->slots = slots ? slots : layout->slots;
    struct extra **extras =
        grow(layout->extras, &layout->extra_room, layout->extra_count + 1, sizeof(struct extra *));
    layout->extras = extras ? extras : layout->extras;
    char *names = grow(layout->names, &layout->names_room, layout->names_bytes + name_bytes, 1);
    layout->names = names ? names : layout->names;
    return slots && extras && names ? 0 : -ENOMEM;
}

/* Writes the entry behind the others, where it does not count yet. */
static void put_slot(struct layout *layout, const struct tar_entry *entry,
                     const struct layout_identity *identity, const struct position *position,
                     struct extra *extra)
{
    bool is_link = extra && extra->link_to != NONE;
    layout->slots[layout->count] = (struct slot){
        .offset = layout->end,
        .size_bytes = S_ISREG(entry->mode) && !is_link ? entry->size_bytes : 0,
        .ino = identity->ino,
        .mtime_s = entry->mtime_s,
        .ctime_s = identity->ctime_s,
        .mtime_ns = entry->mtime_ns,
        .ctime_ns = identity->ctime_ns,
        .mode = entry->mode,
        .uid = (uint32_t)entry->uid,
        .gid = (uint32_t)entry->gid,
        .parent = position->parent,
        .name = (uint32_t)layout->names_bytes,
        .extra = extra ? (uint32_t)layout->extra_count : NONE,
    };
    memcpy(layout->names + layout->names_bytes, position->base, strlen(position->base) + 1);
    if (extra)
        layout->extras[layout->extra_count] = extra;
}

/* How long the headers are, and where the slot ends. */
static int measure(struct layout *layout, uint64_t *ret_end)
{
    struct slot *slot = &layout->slots[layout->count];
    buf_clear(&layout->headers);
    int r = layout_header(layout, layout->count, &layout->headers);
    if (r < 0)
        return r == -EMSGSIZE ? -EOVERFLOW : r;
    slot->header_blocks = (uint32_t)(layout->headers.len / TAR_BLOCK_BYTES);
    uint64_t bytes = data_bytes(layout, slot);
    uint64_t end;
    if (__builtin_add_overflow(bytes, layout->headers.len + tar_padding_bytes(bytes), &bytes) ||
        __builtin_add_overflow(layout->end, bytes, &end) || end > ARCHIVE_MAX_BYTES - TAR_END_BYTES)
        return -EOVERFLOW;
    *ret_end = end;
    return 0;
}

static void note_newest(struct layout *layout, int64_t s, uint32_t ns)
{
    bool newer = s > layout->newest_s || (s == layout->newest_s && ns > layout->newest_ns);
    if (newer) {
        layout->newest_s = s;
        layout->newest_ns = ns;
    }
}

/* From here on the entry counts. */
static void commit(struct layout *layout, const struct tar_entry *entry,
                   const struct layout_identity *identity, const struct position *position,
                   uint64_t end)
{
    uint32_t index = (uint32_t)layout->count++;
    bool is_directory = S_ISDIR(entry->mode);
    if (index == 0) {
        layout->dev = identity->dev;
        layout->newest_s = identity->ctime_s;
        layout->newest_ns = identity->ctime_ns;
    }
    note_newest(layout, identity->ctime_s, identity->ctime_ns);
    layout->names_bytes += strlen(position->base) + 1;
    layout->extra_count += layout->slots[index].extra != NONE;
    layout->end = end;
    layout->parent = is_directory ? index : position->parent;
    layout->path_bytes = is_directory ? strlen(entry->name) : position->path_bytes;
}

/* Puts the entry behind the others, measures it, and makes it count. */
static int append(struct layout *layout, const struct tar_entry *entry,
                  const struct layout_identity *identity, const struct position *position,
                  struct extra *extra)
{
    int r = make_room(layout, strlen(position->base) + 1);
    if (r < 0)
        return r;
    struct buf directory cleanup_buf;
    buf_init(&directory, layout->directory.max_bytes);
    uint64_t end = 0;
    put_slot(layout, entry, identity, position, extra);
    r = measure(layout, &end);
    if (r == 0 && S_ISDIR(entry->mode))
        r = buf_add_string(&directory, entry->name);
    if (r == 0 && !(extra && extra->link_to != NONE))
        r = note_first(layout, entry, identity);
    if (r < 0)
        return r;
    if (S_ISDIR(entry->mode)) {
        struct buf old = layout->directory;
        layout->directory = directory;
        directory = old;
    }
    commit(layout, entry, identity, position, end);
    return 0;
}

int layout_add(struct layout *layout, const struct tar_entry *entry,
               const struct layout_identity *identity)
{
    assert(!layout->finished);
    struct position position;
    int r = check(layout, entry, identity);
    if (r == 0)
        r = find_position(layout, entry, &position);
    if (r < 0 || S_ISSOCK(entry->mode))
        return r;
    cleanup_free struct extra *extra = NULL;
    uint32_t link_to = find_first(layout, entry, identity);
    if (needs_extra(layout, entry, identity->dev, link_to))
        r = extra_new(entry, identity->dev, link_to, &extra);
    if (r == 0)
        r = append(layout, entry, identity, &position, extra);
    if (r == 0)
        (void)take(extra);
    return r;
}

/* The array without the room that is left; where that fails nothing is lost. */
static void *shrink(void *items, size_t *room, size_t count, size_t item_bytes)
{
    void *smaller = count > 0 && count < *room ? reallocarray(items, count, item_bytes) : NULL;
    if (!smaller)
        return items;
    *room = count;
    return smaller;
}

void layout_finish(struct layout *layout)
{
    drop_scaffold(layout);
    layout->slots = shrink(layout->slots, &layout->room, layout->count, sizeof(*layout->slots));
    layout->names = shrink(layout->names, &layout->names_room, layout->names_bytes, 1);
    layout->extras =
        shrink(layout->extras, &layout->extra_room, layout->extra_count, sizeof(struct extra *));
    layout->finished = true;
}

/* ---- asking --------------------------------------------------------------------- */

uint64_t layout_bytes(const struct layout *layout)
{
    assert(layout->finished);
    return layout->end + TAR_END_BYTES;
}

size_t layout_count(const struct layout *layout)
{
    return layout->count;
}

void layout_newest(const struct layout *layout, int64_t *ret_s, uint32_t *ret_ns)
{
    *ret_s = layout->newest_s;
    *ret_ns = layout->newest_ns;
}

void layout_slot(const struct layout *layout, size_t index, struct layout_slot *ret_slot)
{
    assert(index < layout->count);
    const struct slot *slot = &layout->slots[index];
    const struct extra *extra = extra_of(layout, slot);
    bool is_sparse = extra && extra->is_sparse;
    uint64_t end = index + 1 < layout->count ? slot[1].offset : layout->end;
    *ret_slot = (struct layout_slot){
        .index = index,
        .offset = slot->offset,
        .header_bytes = (uint64_t)slot->header_blocks * TAR_BLOCK_BYTES,
        .data_bytes = data_bytes(layout, slot),
        .slot_bytes = end - slot->offset,
        .parent = slot->parent,
        .map_bytes = is_sparse ? extra->map_bytes : 0,
        .is_sparse = is_sparse,
        .dev = extra ? extra->dev : layout->dev,
        .ino = slot->ino,
        .ctime_s = slot->ctime_s,
        .ctime_ns = slot->ctime_ns,
        .size_bytes = slot->size_bytes,
        .has_data = is_sparse ? extra->run_count > 0 : slot->size_bytes > 0,
        .link_to = extra && extra->link_to != NONE ? extra->link_to : index,
    };
}

const char *layout_entry(const struct layout *layout, size_t index, struct tar_entry *ret_entry)
{
    assert(index < layout->count);
    const struct slot *slot = &layout->slots[index];
    const struct extra *extra = extra_of(layout, slot);
    *ret_entry = (struct tar_entry){
        .mode = slot->mode,
        .uid = slot->uid,
        .gid = slot->gid,
        .mtime_s = slot->mtime_s,
        .mtime_ns = slot->mtime_ns,
        .size_bytes = slot->size_bytes,
    };
    if (extra) {
        ret_entry->is_hard_link = extra->link_to != NONE;
        ret_entry->link_target = extra->link_target;
        ret_entry->dev_major = extra->dev_major;
        ret_entry->dev_minor = extra->dev_minor;
        ret_entry->xattrs = extra->xattrs;
        ret_entry->xattr_count = extra->xattr_count;
    }
    return name_of(layout, (uint32_t)index);
}

bool layout_run(const struct layout *layout, size_t index, size_t number,
                struct tar_extent *ret_run)
{
    const struct extra *extra = extra_of(layout, &layout->slots[index]);
    if (!extra || !extra->is_sparse || number >= extra->run_count)
        return false;
    uint64_t before = number > 0 ? extra->runs[number - 1].stored_end : 0;
    *ret_run = (struct tar_extent){.offset = extra->runs[number].offset,
                                   .bytes = extra->runs[number].stored_end - before};
    return true;
}

int layout_find(const struct layout *layout, uint64_t offset, struct layout_slot *ret_slot)
{
    if (offset >= layout->end)
        return 0;
    size_t low = 0; /* starts at or before offset */
    size_t high = layout->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (layout->slots[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    layout_slot(layout, low, ret_slot);
    return 1;
}

static int map_piece(const struct extra *extra, uint64_t size, uint64_t at,
                     struct layout_piece *ret_piece, struct buf *out)
{
    uint64_t left = extra->map_bytes - at;
    uint64_t bytes = left < LAYOUT_MAP_PIECE_BYTES ? left : LAYOUT_MAP_PIECE_BYTES;
    struct map_window window = {.from = at, .to = at + bytes, .out = out};
    size_t before = out->len;
    int r = map_write(&window, extra, size);
    if (r == 0)
        r = buf_add_zeros(out, bytes - (out->len - before));
    if (r < 0) {
        out->len = before;
        return r;
    }
    *ret_piece = (struct layout_piece){.is_map = true, .bytes = bytes};
    return 0;
}

/* `at` counts the bytes of the runs. */
static void run_piece(const struct extra *extra, uint64_t at, struct layout_piece *ret_piece)
{
    size_t low = 0;
    size_t high = extra->run_count - 1; /* the run ends after `at` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (extra->runs[middle].stored_end > at)
            high = middle;
        else
            low = middle + 1;
    }
    uint64_t begin = low > 0 ? extra->runs[low - 1].stored_end : 0;
    *ret_piece = (struct layout_piece){
        .file_offset = extra->runs[low].offset + (at - begin),
        .bytes = extra->runs[low].stored_end - at,
    };
}

int layout_data(const struct layout *layout, size_t index, uint64_t at,
                struct layout_piece *ret_piece, struct buf *map_out)
{
    const struct slot *slot = &layout->slots[index];
    const struct extra *extra = extra_of(layout, slot);
    assert(at < data_bytes(layout, slot));
    if (!extra || !extra->is_sparse)
        *ret_piece = (struct layout_piece){.file_offset = at, .bytes = slot->size_bytes - at};
    else if (at < extra->map_bytes)
        return map_piece(extra, slot->size_bytes, at, ret_piece, map_out);
    else
        run_piece(extra, at - extra->map_bytes, ret_piece);
    return 0;
}
