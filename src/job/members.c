/* SPDX-License-Identifier: MIT */
/*
 * Names are a tree; what a name stands for is a file of its own, which links share and
 * which outlives a later member of the same name as long as a link has it.
 */
#include "job/members.h"

#include "tar/header.h"
#include "tar/reader.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <xxhash.h>

/* uthash's default is not clean. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) (hash) = (unsigned)XXH3_64bits(key, bytes)
#include <uthash.h>

#define END_MAX_BYTES (64 * 1024)

/* A file that was read. */
struct body {
    struct body *next;      /* of all */
    struct tar_entry entry; /* without its name */
    uint64_t offset;        /* of the first byte stored */
    uint64_t first;         /* the id of the name that has it first; only while it is written */
    uint32_t names;
    bool is_written;
    bool is_implied; /* no member told of it yet */
};

struct node_key {
    uint64_t parent;
    char name[];
};

struct node {
    UT_hash_handle hh; /* in the order of ids */
    uint64_t id;
    uint64_t children;
    struct body *body;
    struct node_key key;
};

struct members {
    struct node *nodes;
    struct node *root;
    struct body *bodies;
    struct node_key *probe; /* room for a key of any name */
    uint64_t count;
    struct buf xattrs;
    struct buf extents;
};

/* ---- the tree ------------------------------------------------------------------------ */

static void body_free(struct body *body)
{
    tar_entry_done(&body->entry);
    free(body);
}

void members_free(struct members *members)
{
    if (!members)
        return;
    struct node *node = members->nodes;
    HASH_CLEAR(hh, members->nodes);
    while (node) {
        struct node *next = node->hh.next;
        free(node);
        node = next;
    }
    for (struct body *body = members->bodies, *next; body; body = next) {
        next = body->next;
        body_free(body);
    }
    buf_done(&members->xattrs);
    buf_done(&members->extents);
    free(members->probe);
    free(members);
}

/* Takes the entry over. */
static struct body *add_body(struct members *members, struct tar_entry *entry, uint64_t offset)
{
    struct body *body = calloc(1, sizeof(*body));
    if (!body)
        return NULL;
    body->entry = *entry;
    body->offset = offset;
    *entry = (struct tar_entry){0};
    body->next = members->bodies;
    members->bodies = body;
    return body;
}

static struct node *add_node(struct members *members, struct node *parent, const char *name,
                             size_t name_bytes, struct body *body)
{
    struct node *node = calloc(1, sizeof(*node) + sizeof(uint64_t) + name_bytes + 1);
    if (!node)
        return NULL;
    node->id = members->count;
    node->body = body;
    node->key.parent = parent ? parent->id : UINT64_MAX;
    memcpy(node->key.name, name, name_bytes);
    HASH_ADD(hh, members->nodes, key, sizeof(uint64_t) + name_bytes, node);
    if (!node->hh.tbl) {
        free(node);
        return NULL;
    }
    members->count++;
    if (parent)
        parent->children++;
    return node;
}

static struct node *find_node(struct members *members, uint64_t parent, const char *name,
                              size_t name_bytes)
{
    struct node *node;
    members->probe->parent = parent;
    memcpy(members->probe->name, name, name_bytes);
    HASH_FIND(hh, members->nodes, members->probe, sizeof(uint64_t) + name_bytes, node);
    return node;
}

/* A directory of which nothing is known but that something is in it. */
static struct body *add_implied(struct members *members, int64_t mtime_s)
{
    struct tar_entry entry = {.mode = S_IFDIR | 0755, .mtime_s = mtime_s};
    struct body *body = add_body(members, &entry, 0);
    if (body)
        body->is_implied = true;
    return body;
}

static bool is_name(const char *name, size_t bytes)
{
    return bytes > 0 && bytes <= NAME_MAX && !(bytes == 1 && name[0] == '.') &&
           !(bytes == 2 && name[0] == '.' && name[1] == '.');
}

static int makes_no_tree(const char *path, struct fail *why)
{
    return fail_set(why, EBADMSG, "%s does not fit what is before it in the archive", path);
}

/* The directory of a path, and where its last name begins.  With makes: directories that
 * are missing are made. */
static int find_parent(struct members *members, const char *path, bool makes, int64_t mtime_s,
                       struct node **ret_parent, const char **ret_name, struct fail *why)
{
    struct node *parent = members->root;
    const char *slash;
    for (; (slash = strchr(path, '/')); path = slash + 1) {
        size_t bytes = (size_t)(slash - path);
        if (!is_name(path, bytes))
            return makes_no_tree(path, why);
        struct node *node = find_node(members, parent->id, path, bytes);
        if (!node && makes) {
            struct body *body = add_implied(members, mtime_s);
            node = body ? add_node(members, parent, path, bytes, body) : NULL;
            if (!node)
                return -ENOMEM;
        }
        if (!node || !S_ISDIR(node->body->entry.mode))
            return makes_no_tree(path, why);
        parent = node;
    }
    if (!is_name(path, strlen(path)))
        return makes_no_tree(path, why);
    *ret_parent = parent;
    *ret_name = path;
    return 0;
}

/* Gives a name what a later member says it is. */
static int replace(struct node *node, struct body *body, const char *path, struct fail *why)
{
    bool was_directory = S_ISDIR(node->body->entry.mode);
    if (was_directory && !S_ISDIR(body->entry.mode) && node->children > 0)
        return makes_no_tree(path, why);
    node->body = body;
    return 0;
}

/* What a hard link leads to. */
static int find_target(struct members *members, const struct tar_entry *entry,
                       struct body **ret_body, struct fail *why)
{
    struct node *parent;
    const char *name;
    int r = find_parent(members, entry->link_target, false, 0, &parent, &name, why);
    if (r < 0)
        return r;
    struct node *node = find_node(members, parent->id, name, strlen(name));
    if (!node || S_ISDIR(node->body->entry.mode))
        return makes_no_tree(entry->name, why);
    *ret_body = node->body;
    return 0;
}

/* Takes a member in; what it has is taken over. */
static int add_member(struct members *members, struct tar_entry *entry, uint64_t offset,
                      struct fail *why)
{
    cleanup_free char *path = take(entry->name);
    struct node *parent = NULL;
    const char *name = "";
    struct body *body = NULL;
    int r = path[0] ? find_parent(members, path, true, entry->mtime_s, &parent, &name, why) : 0;
    if (r == 0 && !path[0] && !S_ISDIR(entry->mode))
        r = makes_no_tree("./", why);
    if (r == 0 && entry->is_hard_link) {
        entry->name = path;
        r = find_target(members, entry, &body, why);
        entry->name = NULL;
    } else if (r == 0) {
        body = add_body(members, entry, offset);
    }
    if (r < 0)
        return r;
    if (!body)
        return -ENOMEM;
    struct node *node = parent ? find_node(members, parent->id, name, strlen(name)) : members->root;
    if (node)
        return replace(node, body, path, why);
    return add_node(members, parent, name, strlen(name), body) ? 0 : -ENOMEM;
}

/* ---- reading it ------------------------------------------------------------------------ */

/* The member before: where it begins, and its data; known when the next one has come. */
struct slot {
    bool is_any;
    uint64_t offset;
    uint64_t data;
    uint64_t stored_bytes;
    uint64_t hash;
};

static uint64_t stored_bytes(const struct tar_entry *entry)
{
    uint64_t bytes = 0;
    if (!entry->extents)
        return entry->size_bytes;
    for (size_t i = 0; i < entry->extent_count; i++)
        bytes += entry->extents[i].bytes;
    return bytes;
}

static int end_slot(const struct slot *slot, uint64_t end, struct frames *frames, struct fail *why)
{
    if (!slot->is_any)
        return 0;
    uint64_t bytes = slot->stored_bytes + tar_padding_bytes(slot->stored_bytes);
    if (slot->data < slot->offset || end < slot->data || (bytes && end - slot->data != bytes))
        return fail_set(why, EBADMSG, "a member at %" PRIu64 " is stored in an unusual way",
                        slot->offset);
    uint64_t headers = slot->data - slot->offset;
    if (headers > FRAMES_STEP_BYTES)
        headers = FRAMES_STEP_BYTES;
    return frames ? frames_add(frames, slot->hash, headers, end - slot->offset) : 0;
}

/* What stands behind the last member is zeros. */
static int end_frames(struct frames *frames, uint64_t end_bytes)
{
    int r = 0;
    if (end_bytes > END_MAX_BYTES) {
        r = frames_add(frames, 0, 0, end_bytes - TAR_END_BYTES);
        end_bytes = TAR_END_BYTES;
    }
    return r < 0 ? r : frames_finish(frames, end_bytes);
}

struct reading {
    struct members *members;
    struct tar_reader *reader;
    struct frames *frames;
    struct job *job;
    struct cancel *cancel;
    uint64_t bytes;
    struct slot slot;
};

static int read_member(struct reading *reading, struct tar_entry *entry, struct fail *why)
{
    struct slot slot = {.is_any = true, .stored_bytes = stored_bytes(entry)};
    tar_reader_position(reading->reader, &slot.offset, &slot.data);
    slot.hash = frames_hash(entry->name, strlen(entry->name));
    int r = end_slot(&reading->slot, slot.offset, reading->frames, why);
    if (r == 0)
        r = add_member(reading->members, entry, slot.data, why);
    if (r < 0)
        return r;
    if (reading->job)
        job_add_done(reading->job, slot.offset - reading->slot.offset);
    reading->slot = slot;
    return 0;
}

static int read_end(struct reading *reading, struct fail *why)
{
    uint64_t end, same;
    tar_reader_position(reading->reader, &end, &same);
    if (end > reading->bytes)
        return fail_set(why, EBADMSG, "the archive is longer than it was");
    int r = end_slot(&reading->slot, end, reading->frames, why);
    return r == 0 && reading->frames ? end_frames(reading->frames, reading->bytes - end) : r;
}

static int read_all(struct reading *reading, struct fail *why)
{
    int r;
    do {
        struct tar_entry entry cleanup_tar_entry = {0};
        if (cancel_is_raised(reading->cancel))
            return fail_set(why, EINTR, "interrupted");
        r = tar_reader_next(reading->reader, &entry, why);
        if (r > 0) {
            int added = read_member(reading, &entry, why);
            r = added < 0 ? added : r;
        }
    } while (r > 0);
    return r < 0 ? r : read_end(reading, why);
}

static struct members *members_new(void)
{
    struct members *members cleanup_members = calloc(1, sizeof(*members));
    if (!members)
        return NULL;
    buf_init(&members->xattrs, FILE_MAX_XATTR_BYTES);
    buf_init(&members->extents, FILE_MAX_EXTENTS * sizeof(struct file_extent));
    members->probe = calloc(1, sizeof(*members->probe) + NAME_MAX + 1);
    struct body *body = add_implied(members, 0);
    if (!members->probe || !body)
        return NULL;
    members->root = add_node(members, NULL, "", 0, body);
    return members->root ? take(members) : NULL;
}

int members_read(int fd, uint64_t bytes, struct frames *frames, struct job *job,
                 struct cancel *cancel, struct members **ret_members, struct fail *why)
{
    struct members *members cleanup_members = members_new();
    struct tar_reader *reader cleanup_tar_reader = NULL;
    if (!members)
        return fail_errno(why, ENOMEM, "reading the archive");
    int r = tar_reader_open(fd, &reader, why);
    struct reading reading = {.members = members,
                              .reader = reader,
                              .frames = frames,
                              .job = job,
                              .cancel = cancel,
                              .bytes = bytes};
    if (r == 0)
        r = read_all(&reading, why);
    if (r == -EILSEQ || r == -EOVERFLOW)
        r = -EBADMSG;
    if (r == 0)
        *ret_members = take(members);
    return r;
}

/* ---- writing it ------------------------------------------------------------------------- */

static void count_names(struct members *members)
{
    for (struct body *body = members->bodies; body; body = body->next) {
        body->names = S_ISDIR(body->entry.mode) ? 2 : 0;
        body->is_written = false;
    }
    for (struct node *node = members->nodes; node; node = node->hh.next)
        if (!S_ISDIR(node->body->entry.mode))
            node->body->names++;
}

/* Of directories stat(2) counts those in them; their parents stand before them. */
static int count_directories(struct members *members)
{
    cleanup_free struct body **by_id = calloc(members->count + 1, sizeof(struct body *));
    if (!by_id)
        return -ENOMEM;
    for (struct node *node = members->nodes; node; node = node->hh.next) {
        by_id[node->id] = node->body;
        if (node != members->root && S_ISDIR(node->body->entry.mode))
            by_id[node->key.parent]->names++;
    }
    return 0;
}

static int pack_body(struct members *members, const struct tar_entry *entry)
{
    int r = 0;
    buf_clear(&members->xattrs);
    buf_clear(&members->extents);
    for (size_t i = 0; i < entry->xattr_count && r == 0; i++)
        r = file_xattr_add(&members->xattrs, entry->xattrs[i].name, entry->xattrs[i].value,
                           entry->xattrs[i].value_bytes);
    for (size_t i = 0; i < entry->extent_count && r == 0; i++)
        r = buf_add(&members->extents,
                    &(struct file_extent){.offset = entry->extents[i].offset,
                                          .bytes = entry->extents[i].bytes},
                    sizeof(struct file_extent));
    return r;
}

static struct file_stat stat_of(const struct body *body)
{
    const struct tar_entry *entry = &body->entry;
    return (struct file_stat){
        .mode = entry->mode,
        .nlink = body->names,
        .uid = (uint32_t)entry->uid,
        .gid = (uint32_t)entry->gid,
        .size_bytes = entry->size_bytes,
        .blocks = (stored_bytes(entry) + 511) / 512,
        .ino = body->first,
        .rdev_major = entry->dev_major,
        .rdev_minor = entry->dev_minor,
        .mtime = {.s = entry->mtime_s, .ns = entry->mtime_ns},
    };
}

static int write_node(struct members *members, const struct node *node, struct index_writer *writer,
                      struct fail *why)
{
    struct body *body = node->body;
    const struct tar_entry *entry = &body->entry;
    bool is_first = !body->is_written;
    if (is_first)
        body->first = node->id;
    body->is_written = true;
    int r = is_first ? pack_body(members, entry) : 0;
    if (r == 0 && (entry->uid > UINT32_MAX || entry->gid > UINT32_MAX))
        r = fail_set(why, EBADMSG, "%s: an owner of over 32 bits", node->key.name);
    if (r < 0)
        return r;
    struct index_entry add = {
        .id = node->id,
        .parent = node == members->root ? 0 : node->key.parent,
        .target = body->first,
        .offset = body->offset,
        .file = {.stat = stat_of(body),
                 .name = node->key.name,
                 .link_target = S_ISLNK(entry->mode) ? entry->link_target : "",
                 .xattrs = buf_string(&members->xattrs),
                 .xattr_bytes = is_first ? members->xattrs.len : 0,
                 .extent_count = is_first ? entry->extent_count : 0,
                 .is_sparse = is_first && entry->extents != NULL},
    };
    return index_add(writer, &add, (const struct file_extent *)(const void *)members->extents.data,
                     why);
}

int members_write(struct members *members, struct index_writer *writer, struct fail *why)
{
    count_names(members);
    int r = count_directories(members);
    for (struct node *node = members->nodes; node && r == 0; node = node->hh.next)
        r = write_node(members, node, writer, why);
    return r;
}
