/* SPDX-License-Identifier: MIT */
#include "fs/inbox.h"

#include "base/buf.h"
#include "base/fd.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RECEIPT_MAX_BYTES 16384

struct inboxes {
    pthread_mutex_t lock;
    struct inbox *first;
    uint64_t next_serial;
};

struct handle {
    bool writer;
};

/* The two kinds of open file; there is nothing else to know of one. */
static struct handle reader_handle = {.writer = false};
static struct handle writer_handle = {.writer = true};

static const struct node_ops inbox_file_ops;

/* ---- inboxes ------------------------------------------------------------------ */

struct inboxes *inboxes_new(void)
{
    struct inboxes *inboxes = calloc(1, sizeof(*inboxes));
    if (inboxes)
        (void)pthread_mutex_init(&inboxes->lock, NULL);
    return inboxes;
}

static void inbox_free(struct inbox *inbox)
{
    struct inbox_file *next;
    for (struct inbox_file *file = inbox->files; file; file = next) {
        next = file->next;
        node_unref(&file->node);
    }
    (void)pthread_mutex_destroy(&inbox->lock);
    turn_done(&inbox->turn);
    free(inbox->volume);
    free(inbox);
}

void inboxes_free(struct inboxes *inboxes)
{
    if (!inboxes)
        return;
    struct inbox *next;
    for (struct inbox *inbox = inboxes->first; inbox; inbox = next) {
        next = inbox->next;
        inbox_free(inbox);
    }
    (void)pthread_mutex_destroy(&inboxes->lock);
    free(inboxes);
}

static struct inbox *inbox_new(struct tree *tree, const char *volume,
                               const struct inbox_purpose *purpose)
{
    struct inbox *inbox = calloc(1, sizeof(*inbox));
    if (!inbox || !(inbox->volume = strdup(volume))) {
        free(inbox);
        return NULL;
    }
    inbox->tree = tree;
    inbox->purpose = purpose;
    turn_init(&inbox->turn);
    (void)pthread_mutex_init(&inbox->lock, NULL);
    return inbox;
}

struct inbox *inbox_of(struct tree *tree, const char *volume, const struct inbox_purpose *purpose)
{
    struct inboxes *inboxes = tree->inboxes;
    scoped_lock(&inboxes->lock);
    for (struct inbox *at = inboxes->first; at; at = at->next)
        if (at->purpose == purpose && strcmp(at->volume, volume) == 0)
            return at;
    struct inbox *inbox = inbox_new(tree, volume, purpose);
    if (inbox) {
        inbox->next = inboxes->first;
        inboxes->first = inbox;
    }
    return inbox;
}

struct inbox_file **inbox_find(struct inbox *inbox, const char *name)
{
    struct inbox_file **at = &inbox->files;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

static uint64_t next_ino(struct inboxes *inboxes)
{
    scoped_lock(&inboxes->lock);
    return INO_INBOX_FILE | ++inboxes->next_serial;
}

struct inbox_file *inbox_file_new(struct inbox *inbox, const char *name, int flags, mode_t mode)
{
    struct inbox_file *file = calloc(1, sizeof(*file));
    if (!file || !(file->name = strdup(name))) {
        free(file);
        return NULL;
    }
    node_init(&file->node, &inbox_file_ops, next_ino(inbox->tree->inboxes));
    file->inbox = inbox;
    file->fd = -1;
    file->mode = mode & 0777;
    file->flags = flags;
    (void)clock_gettime(CLOCK_REALTIME, &file->mtime);
    (void)pthread_mutex_init(&file->lock, NULL);
    (void)pthread_cond_init(&file->tried, NULL);
    return file;
}

/* ---- one file: its data ---------------------------------------------------------- */

static void inbox_file_free(struct node *node)
{
    struct inbox_file *file = (struct inbox_file *)node;
    cleanup_close_impl(&file->fd);
    (void)pthread_cond_destroy(&file->tried);
    (void)pthread_mutex_destroy(&file->lock);
    free(file->receipt);
    free(file->name);
    free(file);
}

/* With the lock: makes it pending and empty. */
static int start_over(struct inbox_file *file)
{
    struct fail why = FAIL_INIT;
    struct tree *tree = file->inbox->tree;
    int fd = spool_file(tree->spool, &why);
    if (fd < 0) {
        log_event(tree->log, "%s/%s: %s", file->inbox->volume, file->inbox->purpose->place,
                  fail_text(&why, fd));
        return fd;
    }
    cleanup_close_impl(&file->fd);
    file->fd = fd;
    file->bytes = 0;
    file->changed = true;
    file->write_error = 0;
    free(take(file->receipt));
    return 0;
}

/* With the lock: ready to be written to, from its start where it held a receipt only. */
static int make_pending(struct inbox_file *file)
{
    if (file->trying)
        return -EBUSY;
    if (file->fd < 0)
        return start_over(file);
    free(take(file->receipt));
    return 0;
}

/* Without the lock: what an attempt under way refuses is for the log, once a second. */
static void tell_if_busy(struct inbox_file *file, ssize_t r)
{
    struct inbox *inbox = file->inbox;
    cleanup_free char *name = NULL;
    int64_t now_s = time(NULL);
    if (r != -EBUSY || atomic_exchange(&file->busy_told_s, now_s) == now_s)
        return;
    {
        scoped_lock(&inbox->lock);
        name = strdup(file->name);
    }
    tree_tell_refused(inbox->tree, inbox->volume, inbox->purpose->place, name,
                      "what was written before is being worked on: wait for its close to return");
}

static int inbox_file_getattr(struct node *node, const struct request *request,
                              struct stat *ret_stat, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    struct inbox_file *file = (struct inbox_file *)node;
    scoped_lock(&file->lock);
    node_stat_made_up(ret_stat, S_IFREG | file->mode,
                      file->receipt ? strlen(file->receipt) : file->bytes, &file->mtime);
    ret_stat->st_blksize = NODE_WRITE_BYTES;
    return 0;
}

int inbox_file_open(struct node *node, const struct request *request, int flags,
                    struct opened *ret_opened)
{
    (void)request;
    struct inbox_file *file = (struct inbox_file *)node;
    struct handle *handle = (flags & O_ACCMODE) == O_RDONLY ? &reader_handle : &writer_handle;
    int r = 0;
    {
        scoped_lock(&file->lock);
        if (flags & O_TRUNC)
            r = file->trying ? -EBUSY : start_over(file);
        if (r == 0)
            file->writers += handle->writer;
    }
    tell_if_busy(file, r);
    if (r == 0)
        *ret_opened = (struct opened){.handle = handle, .caching = OPEN_DIRECT};
    return r;
}

static ssize_t inbox_file_read(struct node *node, struct handle *handle,
                               const struct request *request, void *data, size_t len,
                               uint64_t offset)
{
    (void)handle, (void)request;
    struct inbox_file *file = (struct inbox_file *)node;
    scoped_lock(&file->lock);
    if (!file->receipt)
        return file->fd >= 0 ? fd_pread_full(file->fd, data, len, offset) : 0;
    size_t total = strlen(file->receipt);
    if (offset >= total)
        return 0;
    if (len > total - offset)
        len = total - (size_t)offset;
    memcpy(data, file->receipt + offset, len);
    return (ssize_t)len;
}

static ssize_t write_data(struct inbox_file *file, const void *data, size_t len, uint64_t offset)
{
    scoped_lock(&file->lock);
    if (file->trying)
        return -EBUSY;
    int r = make_pending(file);
    if (r == 0)
        r = fd_pwrite_all(file->fd, data, len, offset);
    if (r < 0) {
        file->write_error = r;
        file->changed = true;
        return r;
    }
    if (offset + len > file->bytes)
        file->bytes = offset + len;
    file->changed = true;
    (void)clock_gettime(CLOCK_REALTIME, &file->mtime);
    return (ssize_t)len;
}

static ssize_t inbox_file_write(struct node *node, struct handle *handle, const void *data,
                                size_t len, uint64_t offset)
{
    (void)handle;
    struct inbox_file *file = (struct inbox_file *)node;
    ssize_t r = write_data(file, data, len, offset);
    tell_if_busy(file, r);
    return r;
}

static int truncate_data(struct inbox_file *file, uint64_t size)
{
    scoped_lock(&file->lock);
    /* To the size it has already: rsync --inplace, and harmless to a receipt. */
    if (size == (file->receipt ? strlen(file->receipt) : file->bytes))
        return 0;
    int r = make_pending(file);
    if (r < 0)
        return r;
    if (ftruncate(file->fd, (off_t)size) < 0)
        return -errno;
    file->bytes = size;
    file->changed = true;
    return 0;
}

static int inbox_file_truncate(struct node *node, uint64_t size)
{
    struct inbox_file *file = (struct inbox_file *)node;
    int r = truncate_data(file, size);
    tell_if_busy(file, r);
    return r;
}

static int inbox_file_set_times(struct node *node, const struct timespec *mtime, bool is_now)
{
    (void)is_now;
    struct inbox_file *file = (struct inbox_file *)node;
    scoped_lock(&file->lock);
    file->mtime = *mtime;
    return 0;
}

static int inbox_file_set_mode(struct node *node, mode_t mode)
{
    struct inbox_file *file = (struct inbox_file *)node;
    scoped_lock(&file->lock);
    file->mode = mode & 0777;
    return 0;
}

/* ---- trying --------------------------------------------------------------------- */

/* What writing could not complete is not looked at. */
static int incomplete(struct inbox_file *file, const char *name, struct buf *receipt,
                      struct fail *why)
{
    int r = fail_errno(why, -file->write_error, "the archive could not be received");
    (void)!buf_printf(receipt,
                      "refused\nvolume:  %s\narchive: %s\nreason:  %s\n"
                      "The volume is as it was.\n",
                      file->inbox->volume, name, why->text);
    return r;
}

static int attempt(struct inbox_file *file, const char *name, const struct request *request,
                   struct buf *receipt)
{
    const struct inbox *inbox = file->inbox;
    struct fail why = FAIL_INIT;
    int r = file->write_error ? incomplete(file, name, receipt, &why)
                              : inbox->purpose->attempt(file, name, request, receipt, &why);
    if (r == 0 && !inbox->purpose->tells_success)
        log_event(inbox->tree->log, "%s/%s/%s: %s", inbox->volume, inbox->purpose->place, name,
                  inbox->purpose->verb);
    else if (r < 0)
        log_event(inbox->tree->log, "%s/%s/%s: not %s: %s", inbox->volume, inbox->purpose->place,
                  name, inbox->purpose->verb, fail_text(&why, r));
    return r;
}

static void wake_waiting(void *data)
{
    struct inbox_file *file = data;
    scoped_lock(&file->lock);
    (void)pthread_cond_broadcast(&file->tried);
}

/*
 * Waits for an attempt that runs, and begins the next: 1, or 0 where
 * nothing changed since the last, whose result counts; -EINTR.
 */
static int begin_trying(struct inbox_file *file, struct cancel *cancel)
{
    scoped_lock(&file->lock);
    while (file->trying && !cancel_is_raised(cancel))
        (void)pthread_cond_wait(&file->tried, &file->lock);
    if (file->trying)
        return -EINTR;
    if (!file->changed)
        return 0;
    int r = file->fd < 0 ? start_over(file) : 0;
    if (r < 0)
        return r;
    file->trying = true;
    file->changed = false;
    return 1;
}

static void end_trying(struct inbox_file *file, int result)
{
    scoped_lock(&file->lock);
    file->trying = false;
    file->result = result;
    (void)pthread_cond_broadcast(&file->tried);
}

int inbox_file_try(struct inbox_file *file, const char *name, const struct request *request,
                   char **ret_receipt)
{
    struct cancel_hook hook = {.run = wake_waiting, .data = file};
    cancel_hook_add(request->cancel, &hook);
    int r = begin_trying(file, request->cancel);
    cancel_hook_remove(request->cancel, &hook);
    if (r <= 0)
        return r < 0 ? r : file->result;
    struct buf receipt cleanup_buf;
    buf_init(&receipt, RECEIPT_MAX_BYTES);
    r = attempt(file, name, request, &receipt);
    *ret_receipt = buf_take(&receipt);
    end_trying(file, r);
    return r;
}

void inbox_file_tell(struct inbox_file *file, char *receipt)
{
    scoped_lock(&file->lock);
    if (!receipt || file->changed) {
        free(receipt);
        return;
    }
    free(file->receipt);
    file->receipt = receipt;
    if (file->writers == 0) {
        cleanup_close_impl(&file->fd);
        file->fd = -1;
        file->bytes = 0;
    }
}

static char *current_name(struct inbox_file *file)
{
    scoped_lock(&file->inbox->lock);
    return strdup(file->name);
}

/* It is kept, or it is not: in neither case is it here. */
static void take_out(struct inbox_file *file)
{
    bool was_in;
    {
        scoped_lock(&file->inbox->lock);
        struct inbox_file **at = inbox_find(file->inbox, file->name);
        was_in = *at == file;
        if (was_in) {
            *at = file->next;
            file->next = NULL;
        }
    }
    if (was_in)
        node_unref(&file->node);
}

/* With the lock: whether contents are to come that did not come yet. */
static bool lacks_contents(const struct inbox_file *file)
{
    return file->bytes == 0 && !file->receipt && !file->write_error &&
           file->flags & file->inbox->purpose->filling;
}

/* The same, noted for when it is released: a shell that redirects into it closes one
 * descriptor before anything is written. */
static bool note_unfilled(struct inbox_file *file)
{
    scoped_lock(&file->lock);
    file->is_unfilled = lacks_contents(file);
    return file->is_unfilled;
}

static int inbox_file_flush(struct node *node, struct handle *handle, const struct request *request)
{
    struct inbox_file *file = (struct inbox_file *)node;
    if (!handle->writer)
        return 0;
    cleanup_free char *name = current_name(file);
    if (!name)
        return -ENOMEM;
    if (!file->inbox->purpose->is_final_name(name))
        return 0; /* what counts is the rename */
    if (note_unfilled(file))
        return -EILSEQ;
    char *receipt = NULL;
    int r = inbox_file_try(file, name, request, &receipt);
    inbox_file_tell(file, receipt);
    if (!file->inbox->purpose->leaves_receipt)
        take_out(file);
    return r;
}

/* With the lock: the last writer has gone. */
static void drop_data(struct inbox_file *file)
{
    cleanup_close_impl(&file->fd);
    file->fd = -1;
    file->bytes = 0;
}

void inbox_file_release(struct node *node, struct handle *handle)
{
    struct inbox_file *file = (struct inbox_file *)node;
    bool is_unfilled;
    {
        scoped_lock(&file->lock);
        file->writers -= handle->writer;
        is_unfilled = file->writers == 0 && file->is_unfilled && file->bytes == 0;
        /* What was tried or refused is not needed any more. */
        if (file->writers == 0 && file->receipt && !file->trying)
            drop_data(file);
    }
    if (!is_unfilled)
        return;
    cleanup_free char *name = current_name(file);
    log_event(file->inbox->tree->log, "%s/%s/%s: not %s: nothing was written", file->inbox->volume,
              file->inbox->purpose->place, name ? name : "", file->inbox->purpose->verb);
    take_out(file);
}

static const struct node_ops inbox_file_ops = {
    .waits = NODE_WAITS_FLUSH,
    .free = inbox_file_free,
    .getattr = inbox_file_getattr,
    .open = inbox_file_open,
    .read = inbox_file_read,
    .write = inbox_file_write,
    .flush = inbox_file_flush,
    .release = inbox_file_release,
    .truncate = inbox_file_truncate,
    .set_times = inbox_file_set_times,
    .set_mode = inbox_file_set_mode,
};
