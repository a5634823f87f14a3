/* SPDX-License-Identifier: MIT */
/*
 * What has become of a file is decided when the first byte of its slot is given
 * out, and kept in one byte for each slot, which only moves forward:
 *
 *   UNTOUCHED -> GIVEN    the file could be opened: its headers stand
 *   UNTOUCHED -> GONE     it could not: filler
 *   GIVEN -> SHORT        it ended early
 *   GIVEN, SHORT -> LOST  it is gone since: zeros
 *
 * Whoever moves it on counts and tells.  Threads that race for the same slot
 * take over what the first one decided.  Slots without data of their own are
 * not touched, but for hard links, which share the fate of the file's slot.
 *
 * Open files are kept in a small table.  A row is in use while a thread opens,
 * reads or closes its file; the lock is held only to take and to leave a row.
 * A thread uses one row at a time, so that waiting for one cannot deadlock.
 */
#include "tar/vtar.h"

#include "tar/header.h"

#include <assert.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>

/* How far behind a read files are announced to the source. */
#define EXPECT_BYTES ((uint64_t)8 << 20)
#define EXPECT_FILES 1024
/* Requests of one reader may overtake each other by so much. */
#define ORDER_BYTES ((uint64_t)4 << 20)

enum state { UNTOUCHED, GIVEN, SHORT, LOST, GONE };

#define NO_INDEX SIZE_MAX

struct row {
    enum { FREE, BUSY, OPEN } use; /* BUSY: one thread opens or closes it */
    size_t index;                  /* of the slot; NO_INDEX while it is only being closed */
    void *file;
    unsigned users;
    uint64_t used_at; /* by the table's clock */
};

struct vtar {
    const struct layout *layout;
    struct vtar_source source;
    atomic_uchar *states;
    atomic_size_t last;     /* the slot that the last read ended in */
    atomic_flag announcing; /* a thread is at what `expected` tells */
    size_t expected;        /* up to which slot files were announced */
    atomic_uint_least64_t affected;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t left;  /* a row can be taken */
    struct row rows[VTAR_MAX_OPEN];
    uint64_t clock;
    uint64_t run_begin; /* where somebody began to read in order, */
    uint64_t run_end;   /* and has come to */
};

/* One call of vtar_read. */
struct request {
    struct vtar *vtar;
    struct cancel *cancel;
    struct buf path;
    size_t path_index; /* whose path it is */
    struct buf bytes;  /* headers, map, filler */
    struct fail why;
};

/* What is still to be filled. */
struct span {
    char *to;
    size_t len;
    uint64_t at; /* in the archive */
};

struct vtar *vtar_new(const struct layout *layout, const struct vtar_source *source)
{
    cleanup_free struct vtar *vtar = calloc(1, sizeof(*vtar));
    cleanup_free atomic_uchar *states = calloc(layout_count(layout) + 1, sizeof(*states));
    if (!vtar || !states)
        return NULL;
    vtar->layout = layout;
    vtar->source = *source;
    vtar->states = take(states);
    (void)pthread_mutex_init(&vtar->lock, NULL);
    (void)pthread_cond_init(&vtar->left, NULL);
    return take(vtar);
}

void vtar_free(struct vtar *vtar)
{
    if (!vtar)
        return;
    for (size_t i = 0; i < VTAR_MAX_OPEN; i++)
        if (vtar->rows[i].use == OPEN)
            vtar->source.close(vtar->source.data, vtar->rows[i].file);
    (void)pthread_cond_destroy(&vtar->left);
    (void)pthread_mutex_destroy(&vtar->lock);
    free(vtar->states);
    free(vtar);
}

uint64_t vtar_affected(const struct vtar *vtar)
{
    return atomic_load(&vtar->affected);
}

bool vtar_is_affected(const struct vtar *vtar, size_t index)
{
    return atomic_load(&vtar->states[index]) > GIVEN;
}

bool vtar_is_missing(const struct vtar *vtar, size_t index)
{
    return atomic_load(&vtar->states[index]) == GONE;
}

void vtar_note_given(struct vtar *vtar, size_t index)
{
    unsigned char untouched = UNTOUCHED;
    (void)atomic_compare_exchange_strong(&vtar->states[index], &untouched, GIVEN);
}

/* ---- what became of a file ----------------------------------------------------- */

/* Makes request->path the slot's. */
static int find_path(struct request *request, size_t index)
{
    if (request->path_index == index)
        return 0;
    request->path_index = NO_INDEX;
    buf_clear(&request->path);
    int r = layout_path(request->vtar->layout, index, &request->path);
    if (r == 0)
        request->path_index = index;
    return r;
}

static enum state state_of(const struct request *request, size_t index)
{
    return atomic_load(&request->vtar->states[index]);
}

/* Moves on from `from`, unless another thread did: the state it is in now. */
static enum state move(struct request *request, size_t index, enum state from, enum state to)
{
    unsigned char now = from;
    bool moved = atomic_compare_exchange_strong(&request->vtar->states[index], &now, to);
    return moved ? to : now;
}

/* The same, and counts and tells.  The path must be there: telling cannot fail. */
static enum state move_and_tell(struct request *request, size_t index, enum state from,
                                enum state to, const char *what)
{
    struct vtar *vtar = request->vtar;
    unsigned char now = from;
    assert(request->path_index == index);
    if (!atomic_compare_exchange_strong(&vtar->states[index], &now, to))
        return now;
    atomic_fetch_add(&vtar->affected, 1);
    vtar->source.affected(vtar->source.data, buf_string(&request->path), what);
    return to;
}

/* The file could not be opened. */
static int note_missing(struct request *request, size_t index, enum state *ret_state)
{
    int r = find_path(request, index);
    if (r < 0)
        return r;
    request->why.text[0] = '\0'; /* it is no error */
    enum state state = move_and_tell(request, index, UNTOUCHED, GONE, "is gone");
    if (state == GIVEN)
        state = move_and_tell(request, index, GIVEN, LOST, "is gone");
    if (state == SHORT) /* was told */
        state = move(request, index, SHORT, LOST);
    *ret_state = state;
    return 0;
}

static int note_short(struct request *request, size_t index)
{
    int r = find_path(request, index);
    if (r == 0)
        (void)move_and_tell(request, index, GIVEN, SHORT, "is shorter");
    return r;
}

/* ---- open files -------------------------------------------------------------- */

static struct row *find_row(struct vtar *vtar, size_t index)
{
    for (size_t i = 0; i < VTAR_MAX_OPEN; i++)
        if (vtar->rows[i].use != FREE && vtar->rows[i].index == index)
            return &vtar->rows[i];
    return NULL;
}

/* A free row, or the one that nobody has used for longest; NULL: all are in use. */
static struct row *find_room(struct vtar *vtar)
{
    struct row *oldest = NULL;
    for (size_t i = 0; i < VTAR_MAX_OPEN; i++) {
        struct row *row = &vtar->rows[i];
        if (row->use == FREE)
            return row;
        if (row->use == OPEN && row->users == 0 && (!oldest || row->used_at < oldest->used_at))
            oldest = row;
    }
    return oldest;
}

/*
 * Takes the slot's row, waiting for one where that must be.  If it is BUSY then,
 * the file has to be opened, and *ret_old, if there is one, closed before.
 */
static struct row *take_row(struct vtar *vtar, size_t index, void **ret_old)
{
    scoped_lock(&vtar->lock);
    for (;;) {
        struct row *row = find_row(vtar, index);
        if (row && row->use == OPEN) {
            row->users++;
            return row;
        }
        if (!row && (row = find_room(vtar))) {
            *ret_old = row->use == OPEN ? row->file : NULL;
            *row = (struct row){.use = BUSY, .index = index, .users = 1};
            return row;
        }
        (void)pthread_cond_wait(&vtar->left, &vtar->lock);
    }
}

/* Ends that a row is BUSY: it has a file now, or none (NULL). */
static void settle_row(struct vtar *vtar, struct row *row, void *file, bool is_open)
{
    scoped_lock(&vtar->lock);
    row->use = is_open ? OPEN : FREE;
    row->file = file;
    (void)pthread_cond_broadcast(&vtar->left);
}

/* Leaves a row; with is_done the file is closed, unless others are at it. */
static void leave_row(struct vtar *vtar, struct row *row, bool is_done)
{
    {
        scoped_lock(&vtar->lock);
        row->users--;
        row->used_at = ++vtar->clock;
        is_done = is_done && row->users == 0;
        if (is_done) {
            row->use = BUSY;
            row->index = NO_INDEX;
        } else if (row->users == 0) {
            (void)pthread_cond_broadcast(&vtar->left);
        }
    }
    if (!is_done)
        return;
    vtar->source.close(vtar->source.data, row->file);
    settle_row(vtar, row, NULL, false);
}

static int open_file(struct request *request, const struct layout_slot *slot, void **ret_file)
{
    const struct vtar_source *source = &request->vtar->source;
    int r = find_path(request, slot->index);
    if (r < 0)
        return r;
    return source->open(source->data, buf_string(&request->path), slot->dev, slot->ino,
                        request->cancel, ret_file, &request->why);
}

/* The slot's row with its file open: 0, or the error of opening it. */
static int enter_row(struct request *request, const struct layout_slot *slot, struct row **ret_row)
{
    struct vtar *vtar = request->vtar;
    void *old = NULL;
    struct row *row = take_row(vtar, slot->index, &old);
    if (row->use == OPEN) { /* and stays so while it has users */
        *ret_row = row;
        return 0;
    }
    if (old)
        vtar->source.close(vtar->source.data, old);
    void *file = NULL;
    int r = open_file(request, slot, &file);
    settle_row(vtar, row, file, r >= 0);
    if (r < 0)
        return r;
    *ret_row = row;
    return 0;
}

/* ---- one slot ------------------------------------------------------------------- */

static bool is_missing(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -ESTALE;
}

/*
 * Decides what a slot with data is, opening its file where nobody has yet, or
 * where its data is wanted: *ret_row then, else NULL.
 */
static int touch_file(struct request *request, const struct layout_slot *slot, bool wants_data,
                      enum state *ret_state, struct row **ret_row)
{
    enum state state = state_of(request, slot->index);
    struct row *row = NULL;
    *ret_row = NULL;
    *ret_state = state;
    if (state == GONE || state == LOST || (state != UNTOUCHED && !wants_data))
        return 0;
    int r = enter_row(request, slot, &row);
    if (is_missing(r))
        return note_missing(request, slot->index, ret_state);
    if (r < 0)
        return r;
    *ret_state = move(request, slot->index, UNTOUCHED, GIVEN);
    if (*ret_state == GONE || *ret_state == LOST)
        leave_row(request->vtar, row, true);
    else
        *ret_row = row;
    return 0;
}

/* A link to a file that is not in the archive would spoil it for whoever unpacks it. */
static int touch_link(struct request *request, const struct layout_slot *slot,
                      enum state *ret_state)
{
    struct layout_slot target;
    enum state state = UNTOUCHED;
    struct row *row = NULL;
    *ret_state = state_of(request, slot->index);
    if (*ret_state != UNTOUCHED)
        return 0;
    layout_slot(request->vtar->layout, slot->link_to, &target);
    int r = target.has_data ? touch_file(request, &target, false, &state, &row) : 0;
    if (row)
        leave_row(request->vtar, row, false);
    if (r == 0)
        r = find_path(request, slot->index);
    if (r < 0)
        return r;
    *ret_state = state == GONE ? move_and_tell(request, slot->index, UNTOUCHED, GONE,
                                               "is a link to a file that is gone")
                               : move(request, slot->index, UNTOUCHED, GIVEN);
    return 0;
}

static int touch(struct request *request, const struct layout_slot *slot, bool wants_data,
                 enum state *ret_state, struct row **ret_row)
{
    *ret_state = GIVEN;
    *ret_row = NULL;
    if (slot->has_data)
        return touch_file(request, slot, wants_data, ret_state, ret_row);
    return slot->link_to != slot->index ? touch_link(request, slot, ret_state) : 0;
}

/* The next `bytes` of the span are filled. */
static void advance(struct span *span, size_t bytes)
{
    span->to += bytes;
    span->len -= bytes;
    span->at += bytes;
}

/* How much of the span lies before `end`. */
static size_t until(const struct span *span, uint64_t end)
{
    uint64_t bytes = span->at < end ? end - span->at : 0;
    return bytes < span->len ? (size_t)bytes : span->len;
}

static void give(struct span *span, const char *bytes, size_t len)
{
    if (len > 0)
        memcpy(span->to, bytes, len);
    advance(span, len);
}

static void give_zeros(struct span *span, size_t len)
{
    if (len > 0)
        memset(span->to, 0, len);
    advance(span, len);
}

/* The first unit is what does not make a full one; the others are full. */
static int give_filler(struct request *request, const struct layout_slot *slot, struct span *span)
{
    uint64_t slot_end = slot->offset + slot->slot_bytes;
    size_t odd = slot->slot_bytes % VTAR_UNIT_BYTES;
    while (until(span, slot_end) > 0) {
        uint64_t at = span->at - slot->offset;
        size_t unit = at < odd ? odd : VTAR_UNIT_BYTES;
        size_t begin = at < odd ? (size_t)at : (size_t)((at - odd) % VTAR_UNIT_BYTES);
        buf_clear(&request->bytes);
        int r = layout_filler(request->vtar->layout, unit, &request->bytes);
        if (r < 0)
            return r;
        give(span, request->bytes.data + begin, until(span, span->at + (unit - begin)));
    }
    return 0;
}

static int give_headers(struct request *request, const struct layout_slot *slot, struct span *span)
{
    uint64_t end = slot->offset + slot->header_bytes;
    size_t bytes = until(span, end);
    if (bytes == 0)
        return 0;
    buf_clear(&request->bytes);
    int r = layout_header(request->vtar->layout, slot->index, &request->bytes);
    if (r < 0)
        return r;
    assert(request->bytes.len == slot->header_bytes);
    give(span, request->bytes.data + (span->at - slot->offset), bytes);
    return 0;
}

/* A run of the file; zeros where it is no more, which is row NULL, or short. */
static int give_run(struct request *request, const struct layout_slot *slot, struct row *row,
                    uint64_t file_offset, size_t bytes, struct span *span)
{
    const struct vtar_source *source = &request->vtar->source;
    ssize_t n = row ? source->pread(source->data, row->file, span->to, bytes, file_offset,
                                    request->cancel, &request->why)
                    : 0;
    if (n < 0)
        return (int)n;
    assert((size_t)n <= bytes);
    int r = row && (size_t)n < bytes ? note_short(request, slot->index) : 0;
    advance(span, (size_t)n);
    give_zeros(span, bytes - (size_t)n);
    return r;
}

static int give_data(struct request *request, const struct layout_slot *slot, struct row *row,
                     struct span *span)
{
    uint64_t begin = slot->offset + slot->header_bytes;
    uint64_t end = begin + slot->data_bytes;
    int r = 0;
    while (r == 0 && until(span, end) > 0) {
        struct layout_piece piece;
        buf_clear(&request->bytes);
        r = layout_data(request->vtar->layout, slot->index, span->at - begin, &piece,
                        &request->bytes);
        if (r < 0)
            return r;
        size_t bytes = until(span, span->at + piece.bytes);
        if (piece.is_map)
            give(span, request->bytes.data, bytes);
        else
            r = give_run(request, slot, row, piece.file_offset, bytes, span);
    }
    return r;
}

/* Fills what of the span lies in the slot, which it begins in. */
static int give_slot(struct request *request, const struct layout_slot *slot, struct span *span)
{
    uint64_t data_begin = slot->offset + slot->header_bytes;
    uint64_t data_end = data_begin + slot->data_bytes;
    bool wants_data = span->at < data_end && span->at + span->len > data_begin;
    enum state state;
    struct row *row;
    int r = touch(request, slot, wants_data, &state, &row);
    if (r < 0)
        return r;
    if (state == GONE)
        return give_filler(request, slot, span);
    r = give_headers(request, slot, span);
    if (r == 0)
        r = give_data(request, slot, row, span);
    if (row)
        leave_row(request->vtar, row, r == 0 && span->at >= data_end);
    if (r == 0)
        give_zeros(span, until(span, slot->offset + slot->slot_bytes));
    return r;
}

/* ---- reading ---------------------------------------------------------------------- */

static bool is_within(const struct layout_slot *slot, uint64_t offset)
{
    return offset >= slot->offset && offset - slot->offset < slot->slot_bytes;
}

/* Most reads go on where the last one ended. */
static bool find_slot(struct vtar *vtar, uint64_t offset, struct layout_slot *ret_slot)
{
    size_t last = atomic_load(&vtar->last);
    for (size_t i = last; i < layout_count(vtar->layout) && i <= last + 1; i++) {
        layout_slot(vtar->layout, i, ret_slot);
        if (is_within(ret_slot, offset))
            return true;
    }
    return layout_find(vtar->layout, offset, ret_slot) > 0;
}

/* Up to where to announce: as far behind the span as its reader has come, so that one
 * who jumps about costs nothing. */
static uint64_t follow(struct vtar *vtar, const struct span *span)
{
    uint64_t end = span->at + span->len;
    scoped_lock(&vtar->lock);
    bool goes_on = span->at <= vtar->run_end + ORDER_BYTES && vtar->run_end <= end + ORDER_BYTES;
    if (!goes_on) {
        vtar->run_begin = vtar->run_end = end;
        return 0;
    }
    if (end > vtar->run_end)
        vtar->run_end = end;
    uint64_t come = vtar->run_end - vtar->run_begin;
    return end + (come < EXPECT_BYTES ? come : EXPECT_BYTES);
}

static bool announce(struct request *request, const struct layout_slot *slot)
{
    const struct vtar_source *source = &request->vtar->source;
    if (!slot->has_data || state_of(request, slot->index) != UNTOUCHED)
        return true;
    return find_path(request, slot->index) == 0 &&
           source->expect(source->data, buf_string(&request->path), slot->dev, slot->ino,
                          slot->size_bytes);
}

/* Announces the files behind the first slot of the span, each once to a reader in
 * order.  A hint: what fails is left out. */
static void expect(struct request *request, size_t first, const struct span *span)
{
    struct vtar *vtar = request->vtar;
    size_t to = layout_count(vtar->layout);
    if (!vtar->source.expect)
        return;
    uint64_t end = follow(vtar, span);
    if (to - first > EXPECT_FILES)
        to = first + EXPECT_FILES;
    if (atomic_flag_test_and_set(&vtar->announcing))
        return; /* whoever is at it is not far */
    if (vtar->expected <= first || vtar->expected > to)
        vtar->expected = first + 1;
    for (; vtar->expected < to; vtar->expected++) {
        struct layout_slot slot;
        layout_slot(vtar->layout, vtar->expected, &slot);
        if (slot.offset >= end || !announce(request, &slot))
            break;
    }
    atomic_flag_clear(&vtar->announcing);
}

static int give_all(struct request *request, struct span *span)
{
    struct vtar *vtar = request->vtar;
    struct layout_slot slot;
    bool found = find_slot(vtar, span->at, &slot);
    if (found)
        expect(request, slot.index, span);
    while (found) {
        int r = give_slot(request, &slot, span);
        if (r < 0)
            return r;
        if (span->len == 0 || slot.index + 1 == layout_count(vtar->layout))
            break;
        layout_slot(vtar->layout, slot.index + 1, &slot);
    }
    if (found)
        atomic_store(&vtar->last, slot.index);
    give_zeros(span, span->len); /* the end blocks */
    return 0;
}

static void request_done(struct request *request)
{
    buf_done(&request->path);
    buf_done(&request->bytes);
}

ssize_t vtar_read(struct vtar *vtar, void *buf, size_t len, uint64_t offset, struct cancel *cancel,
                  struct fail *why)
{
    uint64_t bytes = layout_bytes(vtar->layout);
    if (offset >= bytes)
        return 0;
    if (len > bytes - offset)
        len = (size_t)(bytes - offset);
    if (len > SSIZE_MAX)
        len = SSIZE_MAX;
    struct request request cleanup(request_done) = {
        .vtar = vtar, .cancel = cancel, .path_index = NO_INDEX};
    buf_init(&request.path, LAYOUT_HEADER_MAX_BYTES);
    buf_init(&request.bytes, LAYOUT_HEADER_MAX_BYTES);
    struct span span = {.to = buf, .len = len, .at = offset};
    int r = give_all(&request, &span);
    if (r < 0 && why && request.why.text[0])
        *why = request.why;
    return r < 0 ? r : (ssize_t)len;
}
