/* SPDX-License-Identifier: MIT */
#include "fs/inode.h"

/* uthash must not end the process when memory is short. */
#define HASH_NONFATAL_OOM 1
#include <malloc.h>
#include <uthash.h>

#define ROOT_INO 1
/* After so many forgotten nodes, and no fewer than are left, what malloc has of them goes
 * back to the system: it is in pieces among what stays, and malloc gives back no more than
 * the end by itself.  A trim looks at all of memory: hence not for a few among many. */
#define FORGOTTEN_BEFORE_TRIM 16384

struct slot {
    uint64_t ino;
    struct node *node;
    uint64_t lookups;
    UT_hash_handle hh;
};

struct inode_table {
    pthread_mutex_t lock;
    struct slot *slots;
    uint64_t forgotten; /* since the last trim */
};

/* With the lock. */
static struct slot *find_slot(struct inode_table *table, uint64_t ino)
{
    struct slot *slot;
    HASH_FIND(hh, table->slots, &ino, sizeof(ino), slot);
    return slot;
}

/* With the lock.  Takes the reference on success. */
static struct slot *add_slot(struct inode_table *table, struct node *node)
{
    struct slot *slot = calloc(1, sizeof(*slot));
    if (!slot)
        return NULL;
    slot->ino = node->ino;
    slot->node = node;
    HASH_ADD(hh, table->slots, ino, sizeof(slot->ino), slot);
    if (!slot->hh.tbl) { /* out of memory */
        free(slot);
        return NULL;
    }
    return slot;
}

struct inode_table *inode_table_new(struct node *root)
{
    struct inode_table *table = calloc(1, sizeof(*table));
    if (!table) {
        node_unref(root);
        return NULL;
    }
    (void)pthread_mutex_init(&table->lock, NULL);
    struct slot *slot = add_slot(table, root);
    if (!slot) {
        node_unref(root);
        inode_table_free(table);
        return NULL;
    }
    slot->lookups = 1;
    return table;
}

void inode_table_free(struct inode_table *table)
{
    if (!table)
        return;
    struct slot *slot, *next;
    HASH_ITER (hh, table->slots, slot, next) {
        HASH_DEL(table->slots, slot);
        node_unref(slot->node);
        free(slot);
    }
    (void)pthread_mutex_destroy(&table->lock);
    free(table);
}

struct node *inode_table_lookup(struct inode_table *table, struct node *node)
{
    struct node *unwanted = node;
    struct node *result = NULL;
    {
        scoped_lock(&table->lock);
        struct slot *slot = find_slot(table, node->ino);
        if (!slot && (slot = add_slot(table, node)))
            unwanted = NULL;
        if (slot) {
            slot->lookups++;
            result = node_ref(slot->node);
        }
    }
    if (unwanted && result && unwanted != result && result->ops->refresh)
        result->ops->refresh(result, unwanted);
    node_unref(unwanted); /* may free, which takes other locks */
    return result;
}

struct node *inode_table_get(struct inode_table *table, uint64_t ino)
{
    scoped_lock(&table->lock);
    struct slot *slot = find_slot(table, ino);
    return slot ? node_ref(slot->node) : NULL;
}

/* With the lock. */
static bool count_forgotten(struct inode_table *table)
{
    table->forgotten++;
    if (table->forgotten < FORGOTTEN_BEFORE_TRIM || table->forgotten < HASH_COUNT(table->slots))
        return false;
    table->forgotten = 0;
    return true;
}

void inode_table_forget(struct inode_table *table, uint64_t ino, uint64_t lookups)
{
    struct node *node = NULL;
    bool is_time_to_trim = false;
    {
        scoped_lock(&table->lock);
        struct slot *slot = find_slot(table, ino);
        if (!slot || ino == ROOT_INO)
            return;
        slot->lookups = lookups < slot->lookups ? slot->lookups - lookups : 0;
        if (slot->lookups)
            return;
        HASH_DEL(table->slots, slot);
        node = slot->node;
        free(slot);
        is_time_to_trim = count_forgotten(table);
    }
    node_unref(node);
    if (is_time_to_trim)
        (void)malloc_trim(0);
}
