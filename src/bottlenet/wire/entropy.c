/* The codec `entropy` in C. It produces the same bytes as entropy.py, decision by decision.
 *
 *     symbols --passes--> decisions --range coder--> words        encode
 *     payload --range coder--> decisions --passes--> symbols      decode
 *
 * docs/wire.md specifies both; entropy.py calls them. Nothing here allocates, writes to a global or trusts a payload.
 * hatch_build.py compiles this file without Python's headers, so one library serves every version of Python.
 */

#include <stddef.h>
#include <stdint.h>

#ifndef SOURCE_SHA256
#define SOURCE_SHA256 "unknown"
#endif

#define PRECISION 24
#define WORD (1ULL << 32)
#define ZERO 128
#define FIRST_STEP 81
#define RESERVED 2 /* the outcome of a flag that no encoder sends */

/* How decode ends, and what a decision gives beyond its outcomes 0, 1, 2. */
enum { COMPLETE = 0, CUT = -1, PAST = -2, FLAG = -3, FULL = -4 };

/* TablesStruct has the same fields in the same order. */
typedef struct {
    int32_t channels, area, lane, row; /* area: positions of a channel; lane: with a margin of 1; row: of a lane */
    int32_t passes, pass_rows, evens;
    const int32_t *pass_channel, *pass_plane;
    const uint32_t *cuts;        /* (passes, pass_rows, 2): the row of the flag, then those of the trits */
    const int32_t *places;       /* (area,): where in a lane; the even half first */
    const int32_t *reading;      /* (area,): the same positions in reading order */
    const int16_t *known;        /* (5, 256): plane, symbol -> value in units of the plane's step */
    const uint16_t *state[2];    /* magnitude -> how far it moves the row: even half, odd half */
    const uint16_t *activity[2]; /* sum of the neighbours' magnitudes, likewise */
    const uint16_t *energy;      /* channels that are not 0, likewise */
} Tables;

/* All zero at the start. */
typedef struct {
    int16_t *magnitudes; /* (channels, lane), in units of the channel's last step */
    int16_t *signs;      /* the same shape */
    int16_t *before;     /* (lane,): magnitudes before the pass */
    uint16_t *energy;    /* (lane,): channels that are not 0 here */
    int16_t *steps;      /* (channels,): their last ones */
} Latent;

/* The window of 64 bits, and what lies before it (encoder) or behind it (decoder). */
typedef struct {
    uint64_t low, width;
    uint32_t *words;
    int64_t count;
    const uint8_t *payload;
    int64_t size, next;
    uint64_t point, unknown;
} Coder;

const char bottlenet_source[] = SOURCE_SHA256;

static inline void send(Coder *coder, const uint32_t *cuts, int outcome)
{
    uint64_t unit = coder->width >> PRECISION;
    uint32_t left = outcome == 0 ? 0 : cuts[outcome - 1];
    uint32_t right = outcome == 2 ? 1u << PRECISION : cuts[outcome];
    uint64_t before = coder->low;
    coder->low += unit * left;
    if (coder->low < before) {
        int64_t place = coder->count;
        while (++coder->words[--place] == 0) {
        }
    }
    coder->width = unit * (right - left);
    if (coder->width < WORD) {
        coder->words[coder->count++] = (uint32_t)(coder->low >> 32);
        coder->low <<= 32;
        coder->width <<= 32;
    }
}

/* The next word, 0 where bytes are missing, and what these could add. */
static inline uint64_t take(Coder *coder, uint64_t *missing)
{
    uint64_t word = 0;
    *missing = 0;
    for (int byte = 0; byte < 4; byte += 1, coder->next += 1) {
        int there = coder->next < coder->size;
        word = word << 8 | (there ? coder->payload[coder->next] : 0);
        *missing = *missing << 8 | (there ? 0 : 255);
    }
    return word;
}

/* The outcome, if it is the same whatever follows the payload; else CUT, or PAST where no encoder leads. */
static inline int receive(Coder *coder, const uint32_t *cuts)
{
    uint64_t unit = coder->width >> PRECISION, missing;
    if (coder->point >= unit << PRECISION)
        return PAST;
    int outcome = (coder->point >= unit * cuts[0]) + (coder->point >= unit * cuts[1]);
    uint32_t left = outcome == 0 ? 0 : cuts[outcome - 1];
    uint32_t right = outcome == 2 ? 1u << PRECISION : cuts[outcome];
    if (coder->unknown >= unit * right - coder->point)
        return CUT;
    coder->point -= unit * left;
    coder->width = unit * (right - left);
    if (coder->width < WORD) {
        coder->point = coder->point << 32 | take(coder, &missing);
        coder->unknown = coder->unknown << 32 | missing;
        coder->width <<= 32;
    }
    return outcome;
}

/* One channel a plane further. `symbols` are the channel's own, or NULL where they are received. */
static inline int refine(const Tables *tables, Latent *latent, Coder *coder, int pass, const uint8_t *symbols)
{
    int32_t channel = tables->pass_channel[pass], row = tables->row;
    int16_t *after = latent->magnitudes + (int64_t)channel * tables->lane;
    int16_t *signs = latent->signs + (int64_t)channel * tables->lane, *before = latent->before;
    const uint32_t *cuts = tables->cuts + 2 * (int64_t)pass * tables->pass_rows;
    const int16_t *known = tables->known + 256 * tables->pass_plane[pass];

    int flag = 0;
    for (int32_t place = 0; place < tables->lane; place += 1) {
        before[place] = after[place];
        after[place] *= 3;
    }
    if (symbols) {
        for (int32_t at = 0; at < tables->area && !flag; at += 1) {
            int value = known[symbols[tables->reading[at]]];
            flag = (value < 0 ? -value : value) != after[tables->places[at]];
        }
        send(coder, cuts, flag);
    } else {
        flag = receive(coder, cuts);
    }
    if (flag != 1)
        return flag == RESERVED ? FLAG : flag;

    for (int half = 0; half < 2; half += 1) {
        const uint16_t *state = tables->state[half], *activity = tables->activity[half];
        for (int32_t at = half ? tables->evens : 0, end = half ? tables->area : tables->evens; at < end; at += 1) {
            int32_t place = tables->places[at];
            const int16_t *near = (half ? after : before) + place;
            int sum = near[-row] + near[-1] + near[1] + near[row];
            if (!half)
                sum += near[-row - 1] + near[-row + 1] + near[row - 1] + near[row + 1];
            int was = before[place];
            const uint32_t *trit = cuts + 2 * (1 + state[was] + activity[sum] + tables->energy[latent->energy[place]]);
            int outcome;
            if (symbols) {
                int value = known[symbols[tables->reading[at]]];
                outcome = 1 + (was ? (value < 0 ? -value : value) - after[place] : value);
                send(coder, trit, outcome);
            } else {
                outcome = receive(coder, trit);
                if (outcome < 0)
                    return outcome;
            }
            if (was) {
                after[place] += outcome - 1;
            } else if (outcome != 1) {
                after[place] = 1;
                signs[place] = outcome - 1;
                latent->energy[place] += 1;
            }
        }
    }
    return COMPLETE;
}

static Latent latent_in(const Tables *tables, int16_t *work)
{
    int64_t all = (int64_t)tables->channels * tables->lane, lane = tables->lane;
    int16_t *rest = work + 2 * all;
    Latent latent = {work, work + all, rest, (uint16_t *)rest + lane, rest + 2 * lane};
    return latent;
}

/* Whether nothing that follows can change the first `budget` bytes: a word behind them takes any carry. */
static int settled(const Coder *coder, int64_t budget)
{
    for (int64_t place = (budget + 3) / 4; place < coder->count; place += 1)
        if (coder->words[place] != WORD - 1)
            return 1;
    return 0;
}

/* (C, H, W) symbols -> words; `state` gets low and width of the window behind them. The number of words, or FULL.
 * With a budget above 0 no more passes than its bytes need. `work`: 2 lanes a channel, 2 more and a number a
 * channel, all 0.
 */
int64_t bottlenet_encode(const Tables *tables, const uint8_t *symbols, int64_t budget, int16_t *work, uint32_t *words,
                         int64_t capacity, uint64_t *state)
{
    Latent latent = latent_in(tables, work);
    Coder coder = {.width = UINT64_MAX, .words = words};
    for (int32_t pass = 0; pass < tables->passes; pass += 1) {
        if (coder.count + tables->area + 1 > capacity) /* a decision gives at most one word */
            return FULL;
        refine(tables, &latent, &coder, pass, symbols + (int64_t)tables->pass_channel[pass] * tables->area);
        if (budget && settled(&coder, budget))
            break;
    }
    state[0] = coder.low;
    state[1] = coder.width;
    return coder.count;
}

/* Payload -> (C, H, W) symbols, as far as they are certain. COMPLETE, CUT, PAST or FLAG; `state` gets the pass where it
 * ended, bytes read, and point and width of the window.
 */
int64_t bottlenet_decode(const Tables *tables, const uint8_t *payload, int64_t size, int16_t *work, uint8_t *symbols,
                         uint64_t *state)
{
    Latent latent = latent_in(tables, work);
    Coder coder = {.width = UINT64_MAX, .payload = payload, .size = size};
    uint64_t high_missing, missing;
    int32_t pass = 0;
    int status = COMPLETE;
    coder.point = take(&coder, &high_missing) << 32;
    coder.point |= take(&coder, &missing);
    coder.unknown = high_missing << 32 | missing;
    for (; pass < tables->passes; pass += 1) {
        int16_t *step = latent.steps + tables->pass_channel[pass];
        status = refine(tables, &latent, &coder, pass, NULL);
        *step = *step ? *step / 3 : FIRST_STEP;
        if (status != COMPLETE)
            break;
    }
    for (int32_t channel = 0; channel < tables->channels; channel += 1) {
        const int64_t lane = (int64_t)channel * tables->lane;
        for (int32_t at = 0; at < tables->area; at += 1) {
            int64_t place = lane + tables->places[at];
            int value = latent.signs[place] * latent.magnitudes[place] * latent.steps[channel];
            symbols[(int64_t)channel * tables->area + tables->reading[at]] = (uint8_t)(ZERO + value);
        }
    }
    state[0] = (uint64_t)pass;
    state[1] = (uint64_t)coder.next;
    state[2] = coder.point;
    state[3] = coder.width;
    return status;
}
