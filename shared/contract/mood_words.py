"""Lists the words of nine languages by which a mood is recognised in a description.

English is in `shared/contract/prompt.py`, as whole words. German, French, Spanish, Italian and
Portuguese are stems: `ruhig` recognises ruhig, ruhige and ruhigen. Japanese, Chinese, Hindi and
Arabic are parts of the text, because they are written without spaces or with attached particles.

Pure.
"""

from collections.abc import Mapping

#: beginnings of words, by the name of the mood
STEMS: Mapping[str, str] = {
    "EXCITING": """
        abenteuer aufreg begeister feier festlich feuerwerk fröhlich glücklich jubel
        lebendig lebhaft mitreißend rasant rasend rennen schnell skifahr tanzen tanzt tänz
        tobend wettlauf allègre animé dansant énergi enjoué entraînant exalt excit festif
        fête heureu joie joyeu rapide vibrante alegr animad baila baile carrera carreira
        corridas celebra divertid emocion emoç energétic enérgic feliz fiesta rápid veloc
        allegr ballo danza divertent emozion energic entusiasm esaltant festa festos gioia
        gioio vivace agitad animaç dança entusiasmad eufóri festej
    """,
    "CALM": """
        abendruh andacht besinnlich entspann friedlich friedvoll gelassen gemütlich leise
        morgendämm nebel ruhe ruhig sanft schlaf schlumm sonnenaufgang sonnenuntergang
        sommerwies stille traumhaft verträumt wald wellen apais brume calmement doucement forêt
        murmur paisible plage reposant rêve sérénité serein silencieu sommeil tranquill
        amanecer apacibl bosque brisa calma descans lago lentamente marea montañ niebla
        pacífic playa plácid quiet relaj seren silencios soñar sueño suave tranquil bosco dolce
        dormi foresta nebbia pacific placid rilass sereni silenzi sogn spiaggia tramonto
        amanhecer calmo descansa floresta lagoa neblina praia relax sonh sossegad
    """,
    "DRAMATIC": """
        angst bedroh dramatisch düster dunkel erschüttern explosion feindlich finster furcht
        gefahr gefährlich gewaltig gewitter grausam grusel kampf katastroph krieg schlacht
        schatten schrecken spannung sturm stürm tödlich tragisch unheimlich unheil verfolg
        wütend zerstör angoiss bataill combat dange effray effroi féroce guerre inquiét
        menaç mortel obscurité orage peur sombre tempêt terrifi tragiq violen aterrador
        batalla combate destru dramátic furia guerra lucha miedo misterio oscur peligr
        sombrí tenebros tension tensión tormenta trágic violent battagli buio distru
        drammatic furioso inquietant lotta minaccios paura pericol spaventos tempest tenebr
        tragic aterrorizan batalha escur luta medo perig sombri tempestad tensã trági
    """,
    "ELEGANT": """
        anmutig ballsaal edel elegan erlesen exquisit festsaal geschmackvoll glamour
        hochzeit juwel königlich kostbar luxuri luxus prachtvoll prunk romanti schmuck
        vornehm bijou élégan luxe luxueu mariage prestigieu raffin romantique royal
        sophistiqu somptueu distinguid nupcial glamuros joya lujo lujos refinad romántic
        sofisticad gioiell lusso lussuos matrimonio nozze raffinat romantic sfarzos
        sofisticat casamento glamoroso joia luxo luxuos requintad romântic
    """,
    "PROFESSIONAL": """
        beruflich büro firmen geschäft professionell sachlich seriös unternehm bureau
        entrepris professionnel sérieu empresa informativ negoci oficina profesional affari
        aziend lavorativ professional ufficio escritóri negóci profissional
    """,
}

#: parts of a text, by the name of the mood
PARTS: Mapping[str, str] = {
    "EXCITING": """
        楽し 嬉し 元気 祭 踊 走 速 興奮 活気 陽気 激走 盛り上が
        欢乐 快乐 兴奋 激动 欢快 活力 庆祝 跳舞 舞蹈 奔跑 赛车 快速 節日 歡樂 快樂 興奮
        उत्साह रोमांचक खुशी आनंद उत्सव नृत्य तेज़ दौड़ ऊर्जा मस्ती
        مثير حماس سعيد فرح احتفال رقص سباق سريع نشيط بهجة
    """,
    "CALM": """
        静か 穏やか 落ち着 安らぎ のんびり 平和 朝焼け 夕焼け 湖 森 海辺 波 眠 瞑想 優し
        平静 宁静 安静 安宁 轻柔 温柔 和平 日出 日落 湖 森林 海滩 睡 冥想 寧靜 安靜
        शांत शांति सुकून कोमल धीमा धीरे सुबह सूर्योदय सूर्यास्त झील जंगल ध्यान नींद
        هادئ هدوء سكينة سلام ناعم لطيف شروق غروب بحيرة غابة شاطئ نوم تأمل
    """,
    "DRAMATIC": """
        劇的 緊張 暗 闇 嵐 戦 恐怖 怖 危険 激しい 悲劇 爆発 脅威 怒
        戏剧 紧张 黑暗 暴风 战争 战斗 恐怖 恐惧 危险 激烈 悲剧 爆炸 愤怒 戲劇 緊張 戰爭 危險
        नाटकीय तनाव अंधेरा अंधेरे तूफान तूफ़ान युद्ध लड़ाई डर भय खतरा ख़तरा त्रासदी विस्फोट
        درامي توتر ظلام مظلم عاصفة حرب معركة خوف رعب خطر مأساة انفجار غضب
    """,
    "ELEGANT": """
        優雅 上品 華麗 高級 豪華 洗練 宝石 結婚式 舞踏会 気品
        优雅 典雅 高雅 奢华 豪华 精致 珠宝 婚礼 浪漫 華麗 豪華 優雅
        शालीन भव्य शानदार सुरुचिपूर्ण विलासिता शाही आभूषण विवाह शादी
        أنيق أناقة فاخر فخم راقي مجوهرات زفاف ملكي رومانسي
    """,
    "PROFESSIONAL": """
        会社 企業 仕事 専門 オフィス
        商务 公司 企业 办公 专业 商業
        व्यवसाय कार्यालय पेशेवर कंपनी
        أعمال شركة مكتب مهني احترافي
    """,
}
