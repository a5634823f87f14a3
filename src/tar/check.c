/* SPDX-License-Identifier: MIT */
/*
 * The tree of names is one hash table, keyed by parent and component, so that
 * a deep name costs its components and not all its prefixes.
 */
#include "tar/check.h"

#include "tar/attribute.h"
#include "tar/default_acls.h"
#include "tar/reader.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) HASH_FNV(key, bytes, hash) /* the default is not clean */
#include <uthash.h>

struct node {
    UT_hash_handle hh;
    mode_t type;       /* S_IFMT; S_IFDIR for a directory that only members below it tell of */
    bool is_member;    /* has an entry of its own */
    bool has_children; /* there are members below it */
    struct key {
        const struct node *parent;
        char name[]; /* not NUL-terminated */
    } key;
};

struct tar_check {
    struct node *table;
    struct node *root;
    uint64_t members;
    uint64_t names; /* nodes in the table */
    uint64_t data_bytes;
    uint64_t max_data_bytes;
    uint64_t left_out;         /* attributes */
    struct default_acls *acls; /* while it is read: what it will take to unpack it */
};

/* Splits the first component off *path: its length, 0 where there is none. */
static size_t next_component(const char **path, const char **ret_name)
{
    const char *name = *path + (**path == '/');
    size_t len = strcspn(name, "/");
    *ret_name = name;
    *path = name + len;
    return len;
}

static struct node *find_child(const struct tar_check *check, const struct node *parent,
                               const char *name, size_t len)
{
    union {
        struct key key;
        char room[sizeof(struct key) + NAME_MAX];
    } wanted;
    if (len > NAME_MAX)
        return NULL;
    wanted.key.parent = parent;
    memcpy(wanted.key.name, name, len);
    struct node *node = NULL;
    HASH_FIND(hh, check->table, &wanted.key, sizeof(struct key) + len, node);
    return node;
}

/* A new directory that no member tells of yet. */
static struct node *add_child(struct tar_check *check, struct node *parent, const char *name,
                              size_t len)
{
    struct node *node = calloc(1, sizeof(*node) + len);
    if (!node)
        return NULL;
    node->type = S_IFDIR;
    node->key.parent = parent;
    memcpy(node->key.name, name, len);
    HASH_ADD(hh, check->table, key, sizeof(struct key) + len, node);
    if (!node->hh.tbl) {
        free(node);
        return NULL;
    }
    parent->has_children = true;
    check->names++;
    return node;
}

/* Whether a name stays within the tree and is one that Linux can make. */
static int check_name(const char *name, const char *member, struct fail *why)
{
    if (name[0] == '/')
        return fail_set(why, EPERM, "%s: the absolute name %s leads out of the volume", member,
                        name);
    if (strlen(name) > TAR_CHECK_PATH_MAX)
        return fail_set(why, EINVAL, "%.100s...: a name over %d bytes", member, TAR_CHECK_PATH_MAX);
    const char *path = name;
    const char *component;
    size_t len;
    while ((len = next_component(&path, &component)) > 0) {
        if (len == 2 && memcmp(component, "..", 2) == 0)
            return fail_set(why, EPERM, "%s: \"..\" leads out of the volume", member);
        if (len > NAME_MAX)
            return fail_set(why, EINVAL, "%s: a part of the name is over %d bytes", member,
                            NAME_MAX);
    }
    return 0;
}

static int below_other(const struct node *node, const char *member, struct fail *why)
{
    if (S_ISLNK(node->type))
        return fail_set(why, EPERM, "%s: leads through a symlink of the archive", member);
    return fail_set(why, EINVAL, "%s: lies below something that is not a directory", member);
}

/* Finds or makes the member's node; its parents must be directories. */
static int enter(struct tar_check *check, const char *member, struct node **ret_node,
                 struct fail *why)
{
    struct node *node = check->root;
    const char *path = member;
    const char *component;
    size_t len;
    while ((len = next_component(&path, &component)) > 0) {
        if (!S_ISDIR(node->type))
            return below_other(node, member, why);
        struct node *child = find_child(check, node, component, len);
        if (!child && check->names >= TAR_CHECK_NAMES_MAX)
            return fail_set(why, EINVAL, "more than %d names", TAR_CHECK_NAMES_MAX);
        if (!child)
            child = add_child(check, node, component, len);
        if (!child)
            return -ENOMEM;
        node = child;
    }
    *ret_node = node;
    return 0;
}

/* The type of what a hard link points to, which must be there and be no directory. */
static int find_target(const struct tar_check *check, const struct tar_entry *entry,
                       mode_t *ret_type, struct fail *why)
{
    int r = check_name(entry->link_target, entry->name, why);
    if (r < 0)
        return r;
    const struct node *node = check->root;
    const char *path = entry->link_target;
    const char *component;
    size_t len;
    while (node && (len = next_component(&path, &component)) > 0) {
        if (S_ISLNK(node->type))
            return below_other(node, entry->name, why);
        node = find_child(check, node, component, len);
    }
    if (!node || S_ISDIR(node->type))
        return fail_set(why, EINVAL, "%s: a hard link to %s, which is no earlier file", entry->name,
                        entry->link_target);
    *ret_type = node->type;
    return 0;
}

static bool is_known_type(mode_t mode)
{
    return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) ||
           S_ISFIFO(mode);
}

/* The type of file that the member makes. */
static int find_type(const struct tar_check *check, const struct tar_entry *entry, mode_t *ret_type,
                     struct fail *why)
{
    if (!entry->is_hard_link) {
        if (!is_known_type(entry->mode))
            return fail_set(why, EINVAL, "%s: a member of an unknown type", entry->name);
        *ret_type = entry->mode & S_IFMT;
        return 0;
    }
    if (strcmp(entry->name, entry->link_target) == 0)
        return fail_set(why, EINVAL, "%s: a hard link to itself", entry->name);
    return find_target(check, entry, ret_type, why);
}

static int add_name(struct tar_check *check, const struct tar_entry *entry, struct fail *why)
{
    mode_t type = 0;
    struct node *node = NULL;
    int r = check_name(entry->name, entry->name, why);
    if (r == 0)
        r = find_type(check, entry, &type, why);
    if (r == 0 && !entry->name[0] && !S_ISDIR(type))
        r = fail_set(why, EINVAL, "the archive's root is not a directory");
    if (r == 0)
        r = enter(check, entry->name, &node, why);
    if (r < 0 || !node)
        return r;
    if (node->has_children && S_ISLNK(type))
        return fail_set(why, EPERM, "%s: a symlink in place of a directory with members",
                        entry->name);
    if (node->has_children && !S_ISDIR(type))
        return fail_set(why, EINVAL, "%s: not a directory, but has members below it", entry->name);
    node->type = type;
    node->is_member = true;
    return 0;
}

static int add_size(struct tar_check *check, const struct tar_entry *entry, struct fail *why)
{
    uint64_t sum;
    if (__builtin_add_overflow(check->data_bytes, entry->size_bytes, &sum) ||
        sum > check->max_data_bytes)
        return fail_set(why, ENOSPC, "%s: the archive's files need more than %llu bytes",
                        entry->name, (unsigned long long)check->max_data_bytes);
    check->data_bytes = sum;
    check->members++;
    return 0;
}

static int check_xattrs(struct tar_check *check, struct tar_entry *entry, struct fail *why)
{
    check->left_out += attribute_remove_foreign(entry);
    for (size_t i = 0; i < entry->xattr_count; i++)
        if (attribute_kind(entry, &entry->xattrs[i]) == ATTRIBUTE_IMPOSSIBLE)
            return fail_set(why, EINVAL, "%s: no file can have its attribute %.100s", entry->name,
                            entry->xattrs[i].name);
    int r = default_acls_put_off(check->acls, entry);
    return r == -E2BIG ? fail_set(why, EINVAL, "too many directories with default ACLs") : r;
}

/* Reads the member's data through: that is the check. */
static int drain(struct tar_reader *reader, const char *name, struct cancel *cancel,
                 struct fail *why)
{
    const void *data;
    size_t bytes;
    uint64_t offset;
    int r;
    while ((r = tar_reader_data(reader, &data, &bytes, &offset, why)) > 0)
        if (cancel_is_raised(cancel))
            return fail_set(why, EINTR, "cancelled");
    return r < 0 ? fail_prefix(why, r, "%s", name) : 0;
}

/* 1, or 0 at the end. */
static int check_member(struct tar_check *check, struct tar_reader *reader, struct cancel *cancel,
                        struct fail *why)
{
    struct tar_entry entry cleanup_tar_entry = {0};
    if (cancel_is_raised(cancel))
        return fail_set(why, EINTR, "cancelled");
    int r = tar_reader_next(reader, &entry, why);
    if (r <= 0)
        return r;
    r = add_name(check, &entry, why);
    if (r == 0)
        r = check_xattrs(check, &entry, why);
    if (r == 0)
        r = add_size(check, &entry, why);
    if (r == 0)
        r = drain(reader, entry.name, cancel, why);
    return r < 0 ? r : 1;
}

int tar_check_run(int fd, uint64_t max_data_bytes, struct cancel *cancel,
                  struct tar_check **ret_check, struct fail *why)
{
    struct tar_check *check cleanup_tar_check = calloc(1, sizeof(*check));
    if (!check)
        return -ENOMEM;
    check->max_data_bytes = max_data_bytes;
    check->root = calloc(1, sizeof(*check->root));
    check->acls = default_acls_new();
    if (!check->root || !check->acls)
        return -ENOMEM;
    check->root->type = S_IFDIR;
    struct tar_reader *reader cleanup_tar_reader = NULL;
    int r = tar_reader_open(fd, &reader, why);
    if (r < 0)
        return r;
    while ((r = check_member(check, reader, cancel, why)) > 0)
        continue;
    if (r == 0 && check->members == 0)
        r = fail_set(why, EINVAL, "the archive has no members");
    if (r < 0)
        return r;
    default_acls_free(take(check->acls));
    *ret_check = take(check);
    return 0;
}

void tar_check_free(struct tar_check *check)
{
    if (!check)
        return;
    struct node *node = check->table;
    HASH_CLEAR(hh, check->table);
    while (node) {
        struct node *next = node->hh.next;
        free(node);
        node = next;
    }
    default_acls_free(check->acls);
    free(check->root);
    free(check);
}

uint64_t tar_check_members(const struct tar_check *check)
{
    return check->members;
}

uint64_t tar_check_data_bytes(const struct tar_check *check)
{
    return check->data_bytes;
}

uint64_t tar_check_left_out(const struct tar_check *check)
{
    return check->left_out;
}

bool tar_check_has_root(const struct tar_check *check)
{
    return check->root->is_member;
}

int tar_check_against(const struct tar_check *check, const char *name, mode_t mode,
                      struct fail *why)
{
    const struct node *node = check->root;
    const char *path = name;
    const char *component;
    size_t len;
    while (node && (len = next_component(&path, &component)) > 0) {
        if (!S_ISDIR(node->type))
            return fail_set(why, EISDIR,
                            "%s is in the volume, below a name that the archive makes no directory",
                            name);
        node = find_child(check, node, component, len);
    }
    if (!node || node->is_member || !node->has_children || S_ISDIR(mode))
        return 0;
    if (S_ISLNK(mode))
        return fail_set(why, EPERM,
                        "%s is a symlink in the volume, and the archive leads through it", name);
    return fail_set(why, ENOTDIR, "%s is no directory in the volume, but one in the archive", name);
}
